import type { Fact, RouterFact, TunnelTarget } from '../../simulation/fact.js';
import type { Cell } from '../facts/cell.js';
import type { TunnelKeys } from '../numbers/tunnel-keys.js';
import { LocalCells } from './local-cells.js';

export interface TunnelTargetsOptions {
  readonly keys: TunnelKeys;
  readonly router: (id: string) => Fact<RouterFact>;
  /** A tunnel key of this host came into use, whose packets all go the same way. */
  readonly onTunnelKey: (tunnelKey: number) => void;
  readonly onChange: (cell: Cell<unknown>) => void;
}

/**
 * What the tunnel keys of this host stand for. A key belongs to an owner: a port, the ports of a bridge, a router that
 * this host translates for, or its health checks.
 */
export class TunnelTargets {
  private readonly targets: LocalCells<number, TunnelTarget>;

  constructor(private readonly options: TunnelTargetsOptions) {
    this.targets = new LocalCells((key) => `tunnel key ${key}`, options.onChange);
  }

  target(tunnelKey: number): Cell<TunnelTarget> {
    return this.targets.get(tunnelKey);
  }

  /** Tunnel keys in use whose packets all go the same way. */
  keysThatTakeAll(): number[] {
    const keys: number[] = [];
    for (const [key, { value }] of this.targets.entries()) if (value && takesAll(value)) keys.push(key);
    return keys;
  }

  /** The owners of keys, those of the last run too. */
  owners(): Iterable<string> {
    return this.options.keys.owners();
  }

  /** The key of an owner, chosen if it has none. */
  takeKey(owner: string): number {
    return this.options.keys.take(owner);
  }

  /** Say where packets with the key of this owner go; null: nowhere. One that has no key is not sent any. */
  set(owner: string, target: TunnelTarget | null): void {
    const key = this.options.keys.keyOf(owner);
    if (key === undefined) return;
    this.target(key).set(target);
    if (target !== null && takesAll(target)) this.options.onTunnelKey(key);
  }

  /** Packets with this key go nowhere, until its owner says so again. */
  remove(tunnelKey: number): void {
    this.targets.remove(tunnelKey);
  }

  /** Nothing comes under the key of this owner any more. */
  release(owner: string): void {
    const key = this.options.keys.keyOf(owner);
    if (key === undefined) return;
    this.options.keys.release(owner);
    this.target(key).set(null);
  }

  /** The key under which other hosts send here replies to what this host has translated for a router. */
  routerKey(routerId: string): number {
    const key = this.takeKey(routerOwner(routerId));
    const target = this.target(key);
    if (!target.value) target.set({ outputs: [], ports: [], router: this.options.router(routerId) });
    return key;
  }

  /** This host translates nothing for the router any more. */
  releaseRouterKey(routerId: string): void {
    this.release(routerOwner(routerId));
  }

  /** The key under which other hosts send here what answers the health checks of this host. */
  healthKey(): number {
    const key = this.takeKey(HEALTH_OWNER);
    const target = this.target(key);
    if (!target.value) target.set({ outputs: [], ports: [], takesHealthAnswers: true });
    return key;
  }

  /** This host makes no health checks. */
  releaseHealthKey(): void {
    this.release(HEALTH_OWNER);
  }

  forgetUnused(): void {
    this.targets.forgetUnused();
  }

  /** All ports of this host have been told of. */
  setComplete(): void {
    this.targets.setComplete();
  }
}

const HEALTH_OWNER = 'health checks';

function routerOwner(routerId: string): string {
  return `router ${routerId}`;
}

/** Whether it does not depend on the packet what becomes of it. */
function takesAll({ ports, router, takesHealthAnswers }: TunnelTarget): boolean {
  return ports.length === 0 && router === undefined && !takesHealthAnswers;
}
