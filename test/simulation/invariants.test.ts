import test from 'ava';
import fc from 'fast-check';
import { type NetworkPlan, networkPlans } from './network-plan.js';
import { PlannedNetwork } from './planned-network.js';
import { describeFlow, type SimulatedHostOptions, unsoundFlow } from './simulated-host.js';
import { type Arrival, describeStep, type StepPlan, Talk, traffic } from './traffic-plan.js';

/** The invariants of the design, in networks that have everything, in all combinations, and with all kinds of packets. */

const READABLE = { includeErrorInReport: true, interruptAfterTimeLimit: 60_000 };

/** Does these steps, one after the other, and tells what came of each. */
function carryOut(
  plan: NetworkPlan,
  steps: readonly StepPlan[],
  options?: SimulatedHostOptions,
): { network: PlannedNetwork; arrivals: string[][] } {
  const network = new PlannedNetwork(plan, options);
  const talk = new Talk(plan);
  const arrived: Arrival[] = [];
  const arrivals = steps.map((step) => {
    const sent = talk.frameOf(step, arrived);
    if (sent === undefined) return [];
    const got = network.send(sent.from, sent.frame);
    arrived.push(...got.map(([at, frame]) => ({ at, frame })));
    return got.map(([at, frame]) => `${network.machines[at].name} gets ${Buffer.from(frame).toString('hex')}`).sort();
  });
  if (network.faults.length > 0) throw new Error(network.faults.join('\n'));
  return { network, arrivals };
}

test('soundness: what flows do with packets is what becomes of them when each is simulated', (t) => {
  fc.assert(
    fc.property(networkPlans, traffic(10), (plan, steps) => {
      const { arrivals } = carryOut(plan, steps);
      const fresh = carryOut(plan, steps, { installs: false });
      steps.forEach((step, i) => {
        const [flows, simulated] = [arrivals[i].join('\n'), fresh.arrivals[i].join('\n')];
        if (flows !== simulated)
          throw new Error(`${describeStep(step)}\nwith flows:\n${flows}\nwithout:\n${simulated}`);
      });
    }),
    { ...READABLE, numRuns: 300 },
  );
  t.pass();
});

test('soundness: every packet that a flow matches has its decision, also when it comes back', (t) => {
  fc.assert(
    fc.property(networkPlans, traffic(6), (plan, steps) => {
      const { network } = carryOut(plan, steps);
      for (const host of network.hosts) {
        const unsound = unsoundFlow(host);
        if (unsound !== undefined) throw new Error(unsound);
      }
    }),
    { ...READABLE, numRuns: 300 },
  );
  t.pass();
});

test('determinism: the same packets in the same order make the same flows', (t) => {
  const flows = (plan: NetworkPlan, steps: readonly StepPlan[]) =>
    carryOut(plan, steps).network.hosts.map(({ decisions }) => decisions.map(describeFlow));
  fc.assert(
    fc.property(networkPlans, traffic(6), (plan, steps) => {
      t.deepEqual(flows(plan, steps), flows(plan, steps));
    }),
    { ...READABLE, numRuns: 50 },
  );
});
