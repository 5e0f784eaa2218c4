// Joining as a node at an address, for programs that play agents without the controller's handle.
import { credentials } from "@grpc/grpc-js";
import { type JoinResponse, NodeServiceClient } from "../../agent/api/mesh.gen.ts";
import { type Credential, makeCsr } from "./node-agent.ts";

/** @throws ServiceError when the controller refuses or is not there */
export async function joinNode(address: string, rootsPem: string, node: string, token: string): Promise<Credential> {
  const { csrPem, keyPem } = await makeCsr(`spiffe://cluster.local/node/${node}`);
  const options = { "grpc.ssl_target_name_override": "fairlead-controller" };
  const client = new NodeServiceClient(address, credentials.createSsl(Buffer.from(rootsPem)), options);
  try {
    const { chainPem } = await new Promise<JoinResponse>((resolve, reject) =>
      client.join({ node, token, csrPem }, (error, value) => (error === null ? resolve(value) : reject(error))),
    );
    return { chainPem, keyPem };
  } finally {
    client.close();
  }
}
