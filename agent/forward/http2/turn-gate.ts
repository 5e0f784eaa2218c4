// Whose time a connection's reads and writes cost: what of a read its namespace has no time for waits for its next turn.
import type { Tenant, Waiting } from "../tenants.ts";
import type { ReadGate } from "./socket.ts";

export class TurnGate implements ReadGate, Waiting {
  /** Undefined: nobody's, and nothing waits. */
  tenant: Tenant | undefined;
  private readonly resume: () => void;
  /** Its namespace has used up its turn. */
  private isHeld = false;
  /** When the read under way began, µs; 0: nobody measures. */
  private startUs = 0;
  readonly goesOn = (): boolean => this.tenant?.hasTime(this.startUs) !== false;

  /** `resume` is called when reads that `afterRead` held back may go on. */
  constructor(resume: () => void) {
    this.resume = resume;
  }

  beforeRead(bytes: number): boolean {
    this.startUs = this.tenant?.startUs(bytes) ?? 0;
    return this.startUs > 0;
  }

  afterRead(isWhole: boolean): boolean {
    if (this.isHeld) return false;
    this.tenant?.noteRead(this.startUs);
    if (!isWhole) this.tenant?.wait(this);
    this.isHeld = !isWhole || (this.startUs > 0 && this.tenant?.admit(this) === false);
    return !this.isHeld;
  }

  beforeWrite(): number {
    return this.tenant?.startUs() ?? 0;
  }

  afterWrite(startUs: number): void {
    if (startUs > 0) this.tenant?.charge(this.tenant.sinceUs(startUs));
  }

  /** Its namespace's turn has come. */
  goOn(): void {
    this.isHeld = false;
    this.resume();
  }
}
