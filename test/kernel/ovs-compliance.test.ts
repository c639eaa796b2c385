import { datapathCompliance } from '../compliance/datapath.js';
import { ovsFactory } from './ovs-lab.js';

datapathCompliance('ovs', ovsFactory);
