// The agent's version, as reported to the controller and to a successor.
export const agentVersion = "0.1.0";
