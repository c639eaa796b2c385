import { describeMatch } from '../../flow/describe.js';
import type { FlowOperation } from '../datapath.js';

/** What was asked, for error messages. */
export function describeOperation(operation: FlowOperation, datapath: string): string {
  switch (operation.type) {
    case 'put':
      return `put flow ${operation.id} (${describeMatch(operation.key, operation.mask)}) into datapath ${datapath}`;
    case 'delete':
      return `delete flow ${operation.id} of datapath ${datapath}`;
    case 'execute':
      return `execute ${operation.actions.length} actions (${operation.actions.map((action) => action.type).join(', ')}) on a packet of ${operation.packet.length} bytes in datapath ${datapath}`;
  }
}
