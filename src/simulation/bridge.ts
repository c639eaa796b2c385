import { isMulticastMac, MAC_BROADCAST } from '../packet/address.js';
import { EtherType } from '../packet/ethernet.js';
import { answerArp } from './arp.js';
import type { SimulationContext } from './context.js';
import type { BridgeFact, BridgePortFact, Fact, PortFact } from './fact.js';
import { answerNeighborSolicitation } from './nd.js';
import { egressPort, flood, passes, trackBy } from './port.js';

/** 01:80:c2:00:00:00 to …:0f never cross a bridge (IEEE 802.1Q table 8-1). */
const LINK_LOCAL_FIRST = 0x0180_c200_0000;
const LINK_LOCAL_LAST = 0x0180_c200_000f;

/** 33:33:ff:… carries neighbour solicitations (RFC 4291 section 2.7.1, RFC 2464 section 7). */
const SOLICITED_NODE_FIRST = 0x3333_ff00_0000;
const SOLICITED_NODE_LAST = 0x3333_ffff_ffff;

/** A packet arrives at a bridge from one of its ports. */
export function bridgeInput(context: SimulationContext, port: BridgePortFact): void {
  const bridge = context.read(port.bridge);
  if (bridge === undefined) return;
  if (bridge === null) return context.drop('no-bridge');
  if (!bridge.adminStateUp) return context.drop('bridge-down');

  context.pass(bridge.id);
  trackBy(context, bridge);
  const { packet, mask } = context;
  mask.seeEthSrc();
  mask.seeEthDst();
  if (isMulticastMac(packet.ethSrc)) return context.drop('multicast-source');
  if (port.mac === undefined) context.learn({ type: 'learn', bridge, mac: packet.ethSrc, port });
  if (packet.vlanTci === 0 && !passes(context, bridge.inboundFilters)) return;

  if (!isMulticastMac(packet.ethDst)) return forward(context, bridge);
  if (packet.ethDst >= LINK_LOCAL_FIRST && packet.ethDst <= LINK_LOCAL_LAST) return context.drop('link-local');
  if (packet.ethDst === MAC_BROADCAST) {
    mask.seeEthType();
    if (packet.ethType === EtherType.ARP && answerArp(context, bridge)) return;
  } else if (packet.ethDst >= SOLICITED_NODE_FIRST && packet.ethDst <= SOLICITED_NODE_LAST) {
    mask.seeEthType();
    if (packet.ethType === EtherType.IPV6 && answerNeighborSolicitation(context, bridge)) return;
  }
  floodBridge(context, bridge);
}

function forward(context: SimulationContext, bridge: BridgeFact): void {
  const entry = context.read(bridge.mac(context.packet.ethDst));
  if (entry === null) floodBridge(context, bridge);
  else if (entry !== undefined && passesOut(context, bridge, entry.port)) egressPort(context, entry.port);
}

/** Whether the packet passes what filters the bridge has behind its own decision; `port` where it goes to one. */
function passesOut(context: SimulationContext, bridge: BridgeFact, port?: Fact<PortFact>): boolean {
  if (bridge.outboundFilters === undefined || context.packet.vlanTci !== 0) return true;
  // What is compared is the port's identifier and groups.
  if (port !== undefined && context.read(port) === undefined) return false;
  context.outPort = port;
  return passes(context, bridge.outboundFilters);
}

function floodBridge(context: SimulationContext, bridge: BridgeFact): void {
  if (!passesOut(context, bridge)) return;
  const outputs = context.read(bridge.localOutputs);
  const hosts = context.read(bridge.remoteHosts);
  if (outputs === undefined || hosts === undefined) return;
  flood(context, outputs ?? [], hosts ?? []);
}
