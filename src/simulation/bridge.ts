import { isMulticastMac, MAC_BROADCAST } from '../packet/address.js';
import { EtherType } from '../packet/ethernet.js';
import { answerArp, hearArpAnnouncement } from './arp.js';
import type { SimulationContext } from './context.js';
import type { BridgeFact, BridgePortFact, Fact, PortFact } from './fact.js';
import { balance } from './load-balancer.js';
import { answerNeighborSolicitation, hearAdvertisement } from './nd.js';
import { egressPort, mirror, outputHereToAll, passes, trackBy } from './port.js';
import { markPacket } from './qos.js';
import { macStep } from './trace.js';
import { outputToHost } from './tunnel.js';

/** The identifier in tag control information. */
const VLAN_ID = 0xfff;

/** 01:80:c2:00:00:00 to …:0f never cross a bridge (IEEE 802.1Q table 8-1). */
const LINK_LOCAL_FIRST = 0x0180_c200_0000;
const LINK_LOCAL_LAST = 0x0180_c200_000f;
/** But by these switches find out where trunks make a circle, and one of them has to cut it (IEEE 802.1D clause 9). */
const SPANNING_TREE = LINK_LOCAL_FIRST;

/** 33:33:ff:… carries neighbour solicitations (RFC 4291 section 2.7.1, RFC 2464 section 7). */
const SOLICITED_NODE_FIRST = 0x3333_ff00_0000;
const SOLICITED_NODE_LAST = 0x3333_ffff_ffff;
/** What all IPv6 machines of a link are told goes there. */
const ALL_NODES = 0x3333_0000_0001;

/** A packet arrives at a bridge from one of its ports. */
export function bridgeInput(context: SimulationContext, port: BridgePortFact): void {
  const bridge = context.read(port.bridge);
  if (bridge === undefined) return;
  if (bridge === null) return context.drop('no-bridge');
  context.trace?.push({ type: 'device', device: 'bridge', id: bridge.id });
  if (!bridge.adminStateUp) return context.drop('bridge-down');

  context.pass(bridge.id);
  trackBy(context, bridge);
  const { packet, mask } = context;
  mask.seeEthSrc();
  mask.seeEthDst();
  if (isMulticastMac(packet.ethSrc)) return context.drop('multicast-source');
  // What goes through such a port belongs to one VLAN, without saying so.
  if (port.vlanId !== undefined && packet.vlanTci !== 0) return context.drop('other-vlan');
  const vlan = port.vlanId ?? packet.vlanTci & VLAN_ID;
  // Where bridges are linked in a circle, one copy of a flooded packet comes through and no more.
  if (!context.isFirstCopyIn(bridge, vlan)) return context.drop('loop');
  markPacket(context, bridge, port);
  mirror(context, bridge.inboundMirrors);
  if (learns(context, port)) context.learn({ type: 'learn', bridge, mac: packet.ethSrc, vlan, port });
  if (packet.vlanTci === 0) {
    if (!passes(context, bridge.inboundFilters)) return;
    if (!isMulticastMac(packet.ethDst) && balance(context, bridge) === 'wait') return;
  }
  if (port.vlanId !== undefined) context.headers.pushVlan(port.vlanId);

  if (!isMulticastMac(packet.ethDst)) return forward(context, bridge, port);
  if (packet.ethDst >= LINK_LOCAL_FIRST && packet.ethDst <= LINK_LOCAL_LAST) {
    const isPassed = packet.ethDst === SPANNING_TREE && context.read(bridge.isVlanAware);
    if (isPassed === undefined) return;
    if (!isPassed) return context.drop('link-local');
  }
  if (packet.ethDst === MAC_BROADCAST) {
    mask.seeEthType();
    if (packet.ethType === EtherType.ARP) {
      if (answerArp(context, bridge)) return;
      hearArpAnnouncement(context, bridge);
    }
  } else if (packet.ethDst >= SOLICITED_NODE_FIRST && packet.ethDst <= SOLICITED_NODE_LAST) {
    mask.seeEthType();
    if (packet.ethType === EtherType.IPV6 && answerNeighborSolicitation(context, bridge)) return;
  } else if (packet.ethDst === ALL_NODES) {
    mask.seeEthType();
    if (packet.ethType === EtherType.IPV6) hearAdvertisement(context, bridge);
  }
  floodBridge(context, bridge, port);
}

/**
 * Whether the bridge is to learn which addresses are behind the port. Not that of the one machine there, which it is told,
 * nor that of a router.
 */
function learns(context: SimulationContext, port: BridgePortFact): boolean {
  if (port.mac !== undefined) return false;
  return port.peer === undefined || context.read(port.peer)?.type === 'bridge';
}

/** The VLAN that the packet is in; 0 for none. */
function vlanOf({ packet }: SimulationContext): number {
  return packet.vlanTci & VLAN_ID;
}

function forward(context: SimulationContext, bridge: BridgeFact, port: BridgePortFact): void {
  const to = findPort(context, bridge);
  if (to !== undefined) context.trace?.push(macStep(context.packet.ethDst, to));
  if (to === null) return floodBridge(context, bridge, port);
  if (to === undefined || !reaches(context, port, to)) return;
  if (!passesOut(context, bridge, to)) return;
  mirrorOut(context, bridge, to);
  egressPort(context, to);
}

function mirrorOut(context: SimulationContext, bridge: BridgeFact, port?: Fact<PortFact>): void {
  context.outPort = port;
  mirror(context, bridge.outboundMirrors);
}

/** The port that the destination is behind; null if nobody knows. */
function findPort(context: SimulationContext, bridge: BridgeFact): Fact<PortFact> | null | undefined {
  const mac = context.packet.ethDst;
  const vlan = vlanOf(context);
  const entry = context.read(bridge.mac(mac, vlan));
  if (entry === undefined) return undefined;
  if (entry !== null) return entry.port;
  if (vlan === 0) return null;
  // A machine that the bridge was told of is where it is whatever tags its packets have.
  const untagged = context.read(bridge.mac(mac, 0));
  if (untagged === null || untagged === undefined) return untagged;
  const port = context.read(untagged.port);
  if (port === undefined) return undefined;
  return port?.type === 'bridge' && port.mac === mac ? untagged.port : null;
}

/** Whether the bridge lets the packet from `port` out at another. Takes the tag off where that port is for one VLAN. */
function reaches(context: SimulationContext, port: BridgePortFact, to: Fact<PortFact>): boolean {
  const out = context.read(to);
  if (out === undefined) return false;
  if (to === context.inPort) context.drop('same-port');
  else if (out?.type !== 'bridge') return true;
  else if (port.isIsolated && out.isIsolated) context.drop('isolated');
  else if (out.vlanId === undefined) return true;
  else if (out.vlanId !== vlanOf(context)) context.drop('other-vlan');
  else return context.headers.popVlan();
  return false;
}

/** Whether the packet passes what filters the bridge has behind its own decision; `port` where it goes to one. */
function passesOut(context: SimulationContext, bridge: BridgeFact, port?: Fact<PortFact>): boolean {
  if (bridge.outboundFilters === undefined || context.packet.vlanTci !== 0) return true;
  // What is compared is the port's identifier and groups.
  if (port !== undefined && context.read(port) === undefined) return false;
  context.outPort = port;
  return passes(context, bridge.outboundFilters);
}

/**
 * A copy out of every port of the bridge on this host and into what its interior ports lead to, but for where it came from,
 * and one to every other host. Those that would make the action list longer than the datapath takes are left out and counted.
 */
function floodBridge(context: SimulationContext, bridge: BridgeFact, port: BridgePortFact): void {
  if (!passesOut(context, bridge)) return;
  mirrorOut(context, bridge);
  const vlan = vlanOf(context);
  const local = context.read(bridge.localPorts);
  const hosts = context.read(bridge.remoteHosts);
  const linked = context.read(bridge.interiorPorts(0));
  const linkedInVlan = vlan === 0 ? null : context.read(bridge.interiorPorts(vlan));
  if (local === undefined || hosts === undefined || linked === undefined || linkedInVlan === undefined) return;
  context.trace?.push({ type: 'flood', vlan, hosts: hosts?.length ?? 0 });
  context.beginFlood(bridge, vlan);
  if (local !== null) outputHereToAll(context, local);
  // From host to host it might go round for ever.
  if (context.isFlooded && hosts !== null && hosts.length > 0) context.drop('loop');
  for (const host of context.isFlooded ? [] : (hosts ?? [])) {
    outputToHost(context, host.tunnel, (port.isIsolated ? host.openFloodKey : undefined) ?? host.floodKey);
  }
  for (const ports of [local?.ports, linked, linkedInVlan]) {
    for (const to of ports ?? []) {
      if (to === context.inPort) continue;
      context.branch(() => {
        if (reaches(context, port, to)) egressPort(context, to);
      });
    }
  }
}
