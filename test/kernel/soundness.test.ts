import { soundnessCompliance } from '../compliance/soundness.js';
import { ovsFactory } from './ovs-lab.js';

soundnessCompliance('ovs', ovsFactory, { networks: 40, pairs: 2 });
