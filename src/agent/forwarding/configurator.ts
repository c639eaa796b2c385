import type { Answer } from '../../simulation/answer.js';
import { answerConfigurationRequest } from '../../simulation/configuration.js';
import type { Effect } from '../../simulation/decision.js';
import type { Cell } from '../facts/cell.js';
import type { ForwarderMetrics } from './metrics.js';

export interface ConfiguratorOptions {
  /** Begin to read a fact. */
  readonly load: (cell: Cell<unknown>) => void;
  /** Watch a fact for so many seconds, though no flow needs it. */
  readonly keep: (cell: Cell<unknown>, seconds: number) => void;
  /** Of the largest packet that fits the underlay, encapsulated. */
  readonly mtu: () => number;
  readonly metrics: ForwarderMetrics;
}

/** Answers requests of this host's machines for their configuration: DHCP, DHCPv6, router solicitations. */
export class Configurator {
  constructor(private readonly options: ConfiguratorOptions) {}

  /**
   * The answer to a request, in `frame`. While it has to wait, the facts that it waits for are being read if it may.
   * What a machine was told is kept in hand until it renews that, as the NSDB may be away then.
   */
  answer(request: Extract<Effect, { type: 'configure' }>, frame: Uint8Array, mayWait: boolean): Answer {
    const { load, keep, mtu, metrics } = this.options;
    for (;;) {
      const answer = answerConfigurationRequest(request, frame, mtu());
      if (answer.type === 'wait') {
        if (!mayWait) {
          for (const fact of answer.missing) (fact as Cell<unknown>).discard();
          return answer;
        }
        for (const fact of answer.missing) load(fact as Cell<unknown>);
        // A fact that is known at once changes before anybody waits for it.
        if (answer.missing.some((fact) => fact.value === undefined)) return answer;
        continue;
      }
      metrics.configurationRequest(request.request, answer.type === 'frame' ? 'answered' : answer.reason);
      if (answer.type === 'frame' && answer.renewal !== undefined) {
        for (const fact of answer.renewal.facts) keep(fact as Cell<unknown>, answer.renewal.seconds);
      }
      return answer;
    }
  }
}
