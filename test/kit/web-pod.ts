// A pod of the cluster's own busybox image that serves a page about itself on port 8080.
import { BUSYBOX_IMAGE } from "../cluster/images/built-in.ts";
import type { KubeObject } from "../cluster/kubernetes/api.ts";

interface WebPod {
  readonly namespace?: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** What it answers to GET /; its name by default. */
  readonly page?: string;
  /** Ready once it answers, not once it runs. */
  readonly probed?: boolean;
}

export function webPod(name: string, node: string, options: WebPod = {}): KubeObject {
  const { namespace = "shop", labels = { app: name }, page = name, probed = false } = options;
  const probe = { readinessProbe: { httpGet: { path: "/", port: 8080 }, periodSeconds: 1 } };
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace, labels },
    spec: {
      nodeName: node,
      terminationGracePeriodSeconds: 0,
      containers: [
        {
          name: "web",
          image: BUSYBOX_IMAGE,
          command: ["sh", "-c", `mkdir /www && echo ${page} >/www/index.html && exec httpd -f -h /www -p 8080`],
          ports: [{ containerPort: 8080 }],
          ...(probed ? probe : {}),
        },
      ],
    },
  };
}
