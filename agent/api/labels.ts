// The label by which people say what is in the mesh: read by agents, the controller and the command line in the same way.

/** Values as they come: whatever is no text says nothing. */
type Labels = Readonly<Record<string, unknown>>;

/** On namespaces and pods: "enabled" or "disabled". */
export const meshLabel = "fairlead.dev/mesh";

/** What the labels alone say: a pod's own wins over its namespace's. Pods on the host's network never are in the mesh, whatever these say. */
export function isOptedIn(pod: Labels, namespace: Labels): boolean {
  const own = pod[meshLabel];
  return own === "enabled" || (own !== "disabled" && namespace[meshLabel] === "enabled");
}
