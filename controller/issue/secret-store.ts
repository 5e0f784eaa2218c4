// The CA in a Secret that all controllers of a cluster share: the first one makes it, every change is made upon the version read last.
import type { ApiClient } from "../../agent/kubernetes/client.ts";
import { type ApiFault, isConflict, isMissing, showFault } from "../../agent/kubernetes/fault.ts";
import type { CaStore } from "./ca-store.ts";
import { StateError } from "./state-files.ts";

export interface SecretName {
  readonly namespace: string;
  readonly name: string;
}
interface Secret {
  readonly metadata: { readonly resourceVersion?: string; readonly [field: string]: unknown };
  readonly data?: Readonly<Record<string, string>> | null;
}
/** As long as a request of a start may take before it is tried anew. */
const deadlineMs = 10_000;

/** The API server could not be asked: whether the Secret is there is not known. */
export class StoreUnreachable extends StateError {}

/** The texts of a Secret, decoded; undefined when there is none. Throws StateError. */
export async function readSecret(
  api: ApiClient,
  name: SecretName,
): Promise<Readonly<Record<string, string>> | undefined> {
  const secret = await getSecret(api, name);
  return secret === undefined ? undefined : decoded(secret);
}

/** The Secret is made at the first saving. */
export function secretCaStore(api: ApiClient, { namespace, name }: SecretName): CaStore {
  const where = `Secret ${namespace}/${name}`;
  const collection = `/api/v1/namespaces/${namespace}/secrets`;
  let known: Secret | undefined;
  return {
    where,
    isShared: true,
    async load() {
      known = await getSecret(api, { namespace, name });
      return new Map(known === undefined ? [] : Object.entries(decoded(known)));
    },
    async save({ put, remove }) {
      const data: Record<string, string> = { ...known?.data };
      for (const [key, text] of put) data[key] = Buffer.from(text).toString("base64");
      for (const key of remove) delete data[key];
      const labels = { "app.kubernetes.io/managed-by": "fairlead" };
      const answer = await api.send({
        method: known === undefined ? "POST" : "PUT",
        path: known === undefined ? collection : `${collection}/${name}`,
        // With the version that was read: the server refuses it if there is a newer one.
        body: {
          apiVersion: "v1",
          kind: "Secret",
          type: "Opaque",
          ...known,
          metadata: known?.metadata ?? { name, namespace, labels },
          data,
        },
        deadlineMs,
      });
      if (answer.ok) {
        known = answer.value as Secret;
        return "saved";
      }
      if (isConflict(answer.error) || (known !== undefined && isMissing(answer.error))) return "changed";
      throw unusable(where, "cannot be written", answer.error);
    },
  };
}

async function getSecret(api: ApiClient, { namespace, name }: SecretName): Promise<Secret | undefined> {
  const answer = await api.send({ path: `/api/v1/namespaces/${namespace}/secrets/${name}`, deadlineMs });
  if (answer.ok) return answer.value as Secret;
  if (isMissing(answer.error)) return undefined;
  throw unusable(`Secret ${namespace}/${name}`, "cannot be read", answer.error);
}

const decoded = (secret: Secret): Record<string, string> =>
  Object.fromEntries(
    Object.entries(secret.data ?? {}).map(([key, value]) => [key, Buffer.from(value, "base64").toString("utf8")]),
  );

function unusable(where: string, what: string, fault: ApiFault): StateError {
  const message = `${where} ${what}: ${showFault(fault)}`;
  return new StoreUnreachable(message);
}
