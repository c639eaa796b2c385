import type { ChainCells } from './chain-cells.js';
import type { LoadBalancerCells } from './load-balancer-cells.js';
import type { MirrorCells } from './mirror-cells.js';
import type { QosCells } from './qos-cells.js';
import type { TopologySource } from './topology-source.js';

/** What the facts about bridges, routers and ports are made from: they lead to those about other objects. */
export interface DeviceSource extends TopologySource {
  readonly chains: ChainCells;
  readonly mirrors: MirrorCells;
  readonly loadBalancers: LoadBalancerCells;
  readonly qos: QosCells;
}
