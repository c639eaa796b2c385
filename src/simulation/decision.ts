import type { Action } from '../flow/action.js';
import type { FlowMask } from '../flow/mask.js';
import type { Recirculation } from './connection.js';
import type { BridgeFact, BridgePortFact, Fact, PortFact, RouterPortFact } from './fact.js';

/** Why a packet goes nowhere. Counted by the agent under these names. */
export type DropReason =
  /** The simulation threw: a fault of ours. */
  | 'simulation-failed'
  | 'no-port'
  | 'port-down'
  | 'bridge-down'
  | 'no-bridge'
  | 'multicast-source'
  | 'link-local'
  | 'same-port'
  | 'isolated'
  | 'other-vlan'
  | 'loop'
  | 'unbound-port'
  | 'no-tunnel'
  | 'unknown-tunnel-key'
  | 'too-many-devices'
  | 'no-router'
  | 'router-down'
  | 'not-for-router'
  | 'not-routable'
  | 'no-route'
  | 'blackhole'
  | 'rejected'
  | 'filtered'
  | 'unreadable-rule'
  | 'service-port'
  | 'no-connection-state'
  | 'ttl-exceeded'
  | 'no-neighbor'
  | 'for-router'
  | 'stale-recirculation'
  | 'translated-twice'
  | 'no-member'
  | 'no-nat-port'
  | 'no-nat-connection';

/** What shall happen besides forwarding. */
export type Effect =
  /** The source address was seen behind the port, in a VLAN or (0) without a tag. */
  | {
      readonly type: 'learn';
      readonly bridge: BridgeFact;
      readonly mac: number;
      readonly vlan: number;
      readonly port: PortFact;
    }
  /** A machine told everybody on the bridge that it has the address. */
  | {
      readonly type: 'announce';
      readonly bridge: BridgeFact;
      /** One word of IPv4, four of IPv6. */
      readonly address: Uint32Array;
      readonly mac: number;
    }
  /** The packet answers what this host asked a member of a load balancer: see health-answer.ts. */
  | { readonly type: 'health' }
  /** Send this frame out of a device's port, through whatever devices are behind it. */
  | { readonly type: 'send'; readonly port: Fact<PortFact>; readonly frame: Uint8Array }
  /**
   * A neighbour at the router's port told its MAC address. It did so to the router, which will want it, too; or to everybody (not
   * `isForRouter`), which matters to those who know the neighbour already.
   */
  | {
      readonly type: 'neighbor';
      readonly port: RouterPortFact;
      /** The exterior port where it said so; undefined if it came in at none. */
      readonly source?: string;
      /** One word of IPv4, four of IPv6. */
      readonly address: Uint32Array;
      readonly mac: number;
      readonly isForRouter: boolean;
    }
  /**
   * Answer the packet, to the MAC address `to`, out of the router's port that it came in at. That takes the bytes of the packet: see
   * buildReply in reply.ts.
   */
  | {
      readonly type: 'reply';
      readonly port: Fact<PortFact>;
      readonly from: RouterPortFact;
      readonly to: number;
      readonly reply: Reply;
    }
  /** A rule says that the way of the packet is to be written down, of `limit` packets at most. */
  | { readonly type: 'trace'; readonly traceRequestId: string; readonly limit: number | undefined }
  /**
   * Answer the machine's request, out of the port that the packet came in at. That takes the bytes of the packet: see
   * answerConfigurationRequest in configuration.ts.
   */
  | {
      readonly type: 'configure';
      readonly bridge: BridgeFact;
      readonly port: BridgePortFact;
      readonly request: ConfigurationRequest;
    };

/** How a machine asks for its configuration. */
export type ConfigurationRequest = 'dhcp' | 'dhcpv6' | 'router-solicitation';

/** What a router says to the sender of a packet: the answer to an echo request, or an error (RFC 792, RFC 4443). */
export type Reply =
  | { readonly type: 'echo' }
  | {
      readonly type: 'error';
      /** Of ICMP or ICMPv6, whichever goes with the packet. */
      readonly icmpType: number;
      readonly icmpCode: number;
    };

/** What the identifier of a `recirc` action stands for: whoever carries the actions out keeps it for the packets that come back. */
export interface NumberedRecirculation {
  readonly id: number;
  readonly recirculation: Recirculation;
}

/** What came of a simulation. */
export type Decision =
  /** Some facts are not in hand: get these, then simulate from scratch. */
  | { readonly type: 'wait'; readonly missing: readonly Fact<unknown>[] }
  | {
      readonly type: 'done';
      /** Empty: drop. */
      readonly actions: readonly Action[];
      /** The bits of the key that this depended on. */
      readonly mask: FlowMask;
      /** The facts that this depended on: a change of any may change the decision. */
      readonly tags: readonly Fact<unknown>[];
      readonly effects: readonly Effect[];
      /** False when every such packet must be seen by the agent (it is answered here), so no flow may take it. */
      readonly install: boolean;
      /** Undefined when some copy of the packet goes somewhere. */
      readonly drop: DropReason | undefined;
      /** Copies of a flooded packet that were left out because the datapath takes no longer action list. */
      readonly cut: number;
      /** Jumps that would lead back to a chain which led to them, and were not followed. */
      readonly circles: number;
      /** Of all `recirc` actions. */
      readonly recirculations: readonly NumberedRecirculation[];
    };
