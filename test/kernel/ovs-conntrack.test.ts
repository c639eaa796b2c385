import { connectionsCompliance } from '../compliance/datapath-connections.js';
import { conntrackCompliance } from '../compliance/datapath-conntrack.js';
import { ovsFactory } from './ovs-lab.js';

conntrackCompliance('ovs', ovsFactory);
connectionsCompliance('ovs', ovsFactory);
