import { type FlowKey, TunnelFlag } from './key.js';

const ALL = 0xffff_ffff;

/**
 * Where an encapsulated packet goes. Addresses are IPv4, unsigned 32-bit. `flags` are bits of TunnelFlag; an `id` other
 * than zero implies TunnelFlag.KEY.
 */
export interface TunnelKey {
  readonly id: number;
  readonly src: number;
  readonly dst: number;
  readonly tos: number;
  readonly ttl: number;
  readonly flags: number;
}

/** How conntrack translates addresses. Without `kind` set to src or dst, what the connection was committed with applies. */
export interface NatSpec {
  readonly kind: 'src' | 'dst' | 'restore';
  /** IPv4: [address]; IPv6: four words. Without a maximum the range is this one address; the same for ports. */
  readonly ipMin?: readonly number[];
  readonly ipMax?: readonly number[];
  readonly portMin?: number;
  readonly portMax?: number;
  readonly persistent?: boolean;
  readonly random?: boolean;
}

/**
 * What a datapath does to a packet, in order; an empty list drops it. A subset of the kernel's actions
 * (enum ovs_action_attr in linux/openvswitch.h) under their names there.
 */
export type Action =
  | { readonly type: 'output'; readonly port: number }
  /** Hand the packet to the agent as an upcall with reason 'action'. */
  | { readonly type: 'userspace'; readonly userdata?: Uint8Array }
  /**
   * Overwrite the header bits in `mask` with those of `key`: MAC addresses, IP addresses, TOS, TTL and flow label, ports of
   * TCP, UDP and SCTP, mark and priority; nothing else is settable. `key.ethType` and `key.nwProto` say which headers the
   * IP and port words belong to, in the mask or not.
   */
  | { readonly type: 'set'; readonly key: FlowKey; readonly mask: FlowKey }
  | { readonly type: 'set-tunnel'; readonly tunnel: TunnelKey }
  /** `tci` holds VLAN_PRESENT. */
  | { readonly type: 'push-vlan'; readonly tpid: number; readonly tci: number }
  | { readonly type: 'pop-vlan' }
  | {
      readonly type: 'ct';
      readonly zone: number;
      readonly commit?: boolean;
      readonly forceCommit?: boolean;
      readonly mark?: number;
      readonly markMask?: number;
      readonly nat?: NatSpec;
    }
  | { readonly type: 'ct-clear' }
  | { readonly type: 'recirc'; readonly id: number }
  /** Store a hash of the transport flow in dpHash. */
  | { readonly type: 'hash'; readonly basis: number }
  | { readonly type: 'trunc'; readonly maxLength: number }
  | { readonly type: 'meter'; readonly id: number }
  /** Run `actions` on a copy; changes to headers stay within. */
  | { readonly type: 'clone'; readonly actions: readonly Action[] };

/** Whether two action lists do the same, action by action. */
export function actionsEqual(a: readonly Action[], b: readonly Action[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (!actionEqual(a[i], b[i])) return false;
  return true;
}

function actionEqual(a: Action, b: Action): boolean {
  switch (a.type) {
    case 'output':
      return b.type === 'output' && a.port === b.port;
    case 'userspace':
      return b.type === 'userspace' && bytesEqual(a.userdata, b.userdata);
    case 'set':
      return b.type === 'set' && a.mask.equals(b.mask) && a.key.equalsMasked(b.key, a.mask);
    case 'set-tunnel':
      return b.type === 'set-tunnel' && tunnelEqual(a.tunnel, b.tunnel);
    case 'push-vlan':
      return b.type === 'push-vlan' && a.tpid === b.tpid && a.tci === b.tci;
    case 'pop-vlan':
    case 'ct-clear':
      return b.type === a.type;
    case 'ct':
      return (
        b.type === 'ct' &&
        a.zone === b.zone &&
        (a.commit ?? a.forceCommit ?? false) === (b.commit ?? b.forceCommit ?? false) &&
        (a.forceCommit ?? false) === (b.forceCommit ?? false) &&
        a.mark === b.mark &&
        (a.markMask ?? ALL) === (b.markMask ?? ALL) &&
        natEqual(a.nat, b.nat)
      );
    case 'recirc':
      return b.type === 'recirc' && a.id === b.id;
    case 'hash':
      return b.type === 'hash' && a.basis === b.basis;
    case 'trunc':
      return b.type === 'trunc' && a.maxLength === b.maxLength;
    case 'meter':
      return b.type === 'meter' && a.id === b.id;
    case 'clone':
      return b.type === 'clone' && actionsEqual(a.actions, b.actions);
  }
}

function tunnelEqual(a: TunnelKey, b: TunnelKey): boolean {
  const flags = a.id === 0 ? a.flags ^ b.flags : (a.flags ^ b.flags) & ~TunnelFlag.KEY;
  return a.id === b.id && a.src === b.src && a.dst === b.dst && a.tos === b.tos && a.ttl === b.ttl && flags === 0;
}

function natEqual(a: NatSpec | undefined, b: NatSpec | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return (
    a.kind === b.kind &&
    wordsEqual(a.ipMin, b.ipMin) &&
    wordsEqual(a.ipMax ?? a.ipMin, b.ipMax ?? b.ipMin) &&
    a.portMin === b.portMin &&
    (a.portMax ?? a.portMin) === (b.portMax ?? b.portMin) &&
    (a.persistent ?? false) === (b.persistent ?? false) &&
    (a.random ?? false) === (b.random ?? false)
  );
}

function wordsEqual(a: readonly number[] | undefined, b: readonly number[] | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.length === b.length && a.every((word, i) => word === b[i]);
}

function bytesEqual(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
