import { MemoryNetwork } from '../../../src/datapath/memory/network.js';
import { type DatapathFactory, datapathCompliance, type Lab } from '../../compliance/datapath.js';
import { connectionsCompliance } from '../../compliance/datapath-connections.js';
import { conntrackCompliance } from '../../compliance/datapath-conntrack.js';
import { soundnessCompliance } from '../../compliance/soundness.js';

function lab(network: MemoryNetwork, underlay: number): Lab {
  const node = network.node(underlay);
  const datapath = node.datapath('dp');
  return {
    datapath,
    underlay,
    connect: async (name) => node.addInterface(name),
    tunnel: async () => node.addInterface('vxlan0', 'vxlan').name,
    reopen: async () => node.datapath('dp'),
    settle: async () => {
      network.pump();
    },
    close: () => datapath.close(),
  };
}

const factory: DatapathFactory = {
  make: async () => lab(new MemoryNetwork({ now: () => 0 }), 0),
  makePair: async () => {
    const network = new MemoryNetwork({ now: () => 0 });
    return [lab(network, 0xac10_0001), lab(network, 0xac10_0002)];
  },
};

datapathCompliance('memory', factory);
conntrackCompliance('memory', factory);
connectionsCompliance('memory', factory);
soundnessCompliance('memory', factory, { networks: 50, pairs: 1 });
