import type { DropReason } from '../../simulation/decision.js';
import type { PlainStep, Question } from '../../simulation/explain.js';
import type { TraceNames } from './trace-names.js';
import type { ShownPass } from './trace-privacy.js';

/** What becomes of a packet. */
export interface TraceOutcome {
  /**
   * `delivered`: it leaves the virtual network at one port, or at several; `flooded`: at all ports of a bridge; `forwarded`: another
   * host, which has its translation, goes on with it; `answered`: a device takes it and answers in its own name; `dropped`: it
   * goes nowhere; `undecided`: the agent does not know enough.
   */
  readonly verdict: 'delivered' | 'flooded' | 'forwarded' | 'answered' | 'dropped' | 'undecided';
  /** In one sentence, or some more where more is to be said. */
  readonly text: string;
  /** The ports where it leaves. */
  readonly portIds: readonly string[];
  /** Why it is dropped. */
  readonly reason?: DropReason;
  /** The rule that dropped it, or those that let it pass where filters were in its way. */
  readonly ruleIds: readonly string[];
}

type Step<T extends PlainStep['type']> = Extract<PlainStep, { readonly type: T }>;

/** What is found on the way of the packet itself, without those of its copies that mirrors and captures made. */
interface Found {
  /** Of somebody else's ports it is not told which. */
  readonly deliveries: { readonly port: string | undefined; readonly tunnelTo: string | undefined }[];
  /** Copies out of ports that are not named, since it goes to all of them. */
  floodedHere: number;
  readonly floodedTo: Set<string>;
  /** It goes on at another host. */
  isForwarded: boolean;
  readonly answers: (Step<'answer'> | Step<'reply'> | Step<'configure'> | Step<'health-answer'>)[];
  readonly drops: Drop[];
  /** Somebody else's device drops or answers it. */
  isDroppedElsewhere: boolean;
  isAnsweredElsewhere: boolean;
  readonly missing: string[];
  readonly accepted: Step<'rule'>[];
  readonly changes: Map<string, string>;
  /** The destination that nobody knows, so that it is flooded. */
  unknownMac: string | undefined;
  isMetered: boolean;
  /** The datapath was asked for a destination translated back, and what it would be is not known here. */
  isLeftTranslated: boolean;
}

/** A drop and where it was. */
interface Drop {
  readonly reason: DropReason;
  readonly port: string | undefined;
  readonly device: { readonly type: 'bridge' | 'router'; readonly id: string } | undefined;
  readonly rule: Step<'rule'> | undefined;
  readonly route: Step<'route'> | undefined;
  readonly nextHop: Step<'next-hop'> | undefined;
}

/**
 * @param passes with what the agent found; the first is of the packet as it comes in
 * @param connection what the packet is taken to be to its connection
 */
export function traceOutcome(
  passes: readonly ShownPass[],
  names: TraceNames,
  connection: Question['connection'] = 'new',
): TraceOutcome {
  const found: Found = {
    deliveries: [],
    floodedHere: 0,
    floodedTo: new Set(),
    isForwarded: false,
    answers: [],
    drops: [],
    isDroppedElsewhere: false,
    isAnsweredElsewhere: false,
    missing: [],
    accepted: [],
    changes: new Map(),
    unknownMac: undefined,
    isMetered: false,
    isLeftTranslated: false,
  };
  // What comes back is followed from the beginning again: the last pass has the whole way.
  const goesOn = new Set(passes.map(({ from }) => from));
  const ends = passes.filter((_, i) => !goesOn.has(i));
  for (const pass of ends) collect(pass, found);
  const portIds = [...new Set(found.deliveries.flatMap(({ port }) => port ?? []))];
  const first = networkPart(passes[0].packet);
  const last = networkPart(ends[0].packet);
  const accepted = found.accepted.map(({ rule }) => rule);
  if (found.missing.length > 0) {
    const text = `Undecided: the agent does not know ${found.missing.join(', ')}.`;
    return { verdict: 'undecided', text, portIds, ruleIds: [] };
  }
  if (found.floodedTo.size > 0 || found.floodedHere > 0) {
    return { verdict: 'flooded', text: floodedText(found, names), portIds, ruleIds: accepted };
  }
  if (found.deliveries.length > 0) {
    const text = deliveredText(found, first === last ? undefined : last, names);
    return { verdict: 'delivered', text, portIds, ruleIds: accepted };
  }
  if (found.isForwarded) {
    const text = `Forwarded to the host that has the translation of its connection, which goes on with it.${acceptedText(found, names)}`;
    return { verdict: 'forwarded', text, portIds, ruleIds: accepted };
  }
  const [drop] = found.drops;
  const tells = found.answers.find(({ type }) => type === 'reply') as Step<'reply'> | undefined;
  const isError = tells?.reply.type === 'error';
  if (found.answers.length > 0 && !isError) {
    return { verdict: 'answered', text: answeredText(found, names), portIds, ruleIds: accepted };
  }
  if (found.isAnsweredElsewhere && !found.isDroppedElsewhere) {
    const text = 'Answered by a device of somebody else.';
    return { verdict: 'answered', text, portIds, ruleIds: accepted };
  }
  if (found.isDroppedElsewhere) {
    return { verdict: 'dropped', text: 'Dropped by a device of somebody else.', portIds, ruleIds: [] };
  }
  if (drop === undefined) {
    return { verdict: 'dropped', text: 'Dropped: there is nowhere for it to go.', portIds, ruleIds: [] };
  }
  if (connection === 'reply' && found.isLeftTranslated && !isByRule(drop)) {
    const text = `Undecided: only the kernel knows what ${destinationOf(last)} is translated back to at ${placeOf(drop, names)}. Trace the reply to the address that it is for.`;
    return { verdict: 'undecided', text, portIds, ruleIds: accepted };
  }
  const told = isError
    ? `, and its sender is told so (ICMP type ${tells.reply.icmpType} code ${tells.reply.icmpCode})`
    : '';
  const ruleIds = isByRule(drop) ? [drop.rule.rule] : [];
  const flood =
    found.unknownMac === undefined ? '' : `as nobody knows ${found.unknownMac}, and no copy of it gets through, `;
  return {
    verdict: 'dropped',
    text: `Dropped ${flood}${dropText(drop, last, names)}${told}.`,
    portIds,
    reason: drop.reason,
    ruleIds,
  };
}

function collect({ steps, missing }: ShownPass, found: Found): void {
  found.missing.push(...(missing ?? []));
  let copies = 0;
  let isFlooded = false;
  let isCopy = false;
  let port: string | undefined;
  let outPort: string | undefined;
  let device: Drop['device'];
  let rule: Drop['rule'];
  let route: Drop['route'];
  let nextHop: Drop['nextHop'];
  for (const step of steps) {
    if (step.type === 'mirror' || step.type === 'capture') copies++;
    if (step.type === 'mirrored' || step.type === 'captured') copies--;
    if (step.type === 'in') isCopy = step.isCopy === true;
    if (copies > 0 || isCopy) continue;
    switch (step.type) {
      case 'in':
        isFlooded = false;
        port = step.port;
        outPort = rule = route = nextHop = device = undefined;
        break;
      case 'device':
        device = { type: step.device, id: step.id };
        rule = undefined;
        break;
      case 'chain':
        rule = undefined;
        break;
      case 'rule':
        rule = step;
        if (/\baccept$/.test(step.action)) found.accepted.push(step);
        break;
      case 'route':
        route = step;
        break;
      case 'next-hop':
        nextHop = step;
        break;
      case 'out':
        port = outPort = step.port;
        rule = undefined;
        break;
      case 'mac':
        if (step.port === null) found.unknownMac = step.mac;
        break;
      case 'flood':
        isFlooded = true;
        outPort = undefined;
        break;
      case 'set':
        if (step.field === 'source' || step.field === 'destination') found.changes.set(step.field, step.value);
        break;
      case 'translated':
        if (step.kind === 'reverse' && !step.isMade) found.isLeftTranslated = true;
        break;
      case 'meter':
        found.isMetered = true;
        break;
      case 'output':
        if (outPort !== undefined) found.deliveries.push({ port: outPort, tunnelTo: step.tunnelTo });
        else if (!isFlooded) found.isForwarded = true;
        else if (step.tunnelTo !== undefined) found.floodedTo.add(step.tunnelTo);
        else found.floodedHere++;
        break;
      case 'answer':
      case 'reply':
      case 'configure':
      case 'health-answer':
        found.answers.push(step);
        break;
      case 'hidden':
        if (step.what === 'output') found.deliveries.push({ port: undefined, tunnelTo: undefined });
        else if (step.what === 'drop') found.isDroppedElsewhere = true;
        else if (step.what === 'answer') found.isAnsweredElsewhere = true;
        else if (step.what === 'rule') rule = undefined;
        else port = outPort = rule = route = nextHop = device = undefined;
        break;
      case 'drop':
        found.drops.push({ reason: step.reason, port, device, rule, route, nextHop });
        break;
    }
  }
}

const MAX_NAMED = 4;

function deliveredText(found: Found, translated: string | undefined, names: TraceNames): string {
  const ways = found.deliveries.map(({ port, tunnelTo }) => {
    if (port === undefined) return 'a port of somebody else';
    const through = tunnelTo === undefined ? '' : `, through the tunnel to ${tunnelTo}`;
    return `${names.portOfDevice(port)}${through}`;
  });
  const more = ways.length > MAX_NAMED ? ` and ${ways.length - MAX_NAMED} more` : '';
  const changes = [...found.changes].map(([field, value]) => `with ${field} ${value}`);
  const as = [...(translated === undefined ? [] : [`as ${translated}`]), ...changes]
    .map((text) => `, ${text}`)
    .join('');
  return `Delivered out of ${ways.slice(0, MAX_NAMED).join('; ')}${more}${as}${limitText(found)}.${acceptedText(found, names)}`;
}

function floodedText(found: Found, names: TraceNames): string {
  const { floodedHere, floodedTo, deliveries } = found;
  const parts = [
    `${floodedHere} port${floodedHere === 1 ? '' : 's'} of the host`,
    `${floodedTo.size} other host${floodedTo.size === 1 ? '' : 's'}`,
    ...deliveries.slice(0, MAX_NAMED).map(({ port }) => (port === undefined ? 'others' : names.port(port))),
  ];
  const why = found.unknownMac === undefined ? '' : `, as nobody knows ${found.unknownMac}`;
  return `Flooded${why}: a copy goes to ${parts.join(', ')}${limitText(found)}.${acceptedText(found, names)}`;
}

function answeredText(found: Found, names: TraceNames): string {
  const [answer] = found.answers;
  const by = 'port' in answer && answer.port !== undefined ? ` out of ${names.port(answer.port)}` : '';
  switch (answer.type) {
    case 'answer':
      return `Answered by the virtual network${by}: it knows who has the address.`;
    case 'reply':
      return `Answered by the router itself${by}: echo reply.`;
    case 'configure':
      return `Answered by the virtual network: ${answer.request}.`;
    case 'health-answer':
      return 'Taken by the load balancer as the answer to its health check.';
  }
}

function limitText({ isMetered }: Found): string {
  return isMetered ? ', unless such packets come too fast' : '';
}

function acceptedText({ accepted }: Found, names: TraceNames): string {
  if (accepted.length === 0) return '';
  const rules = accepted.map(({ rule, chain }) => `${names.rule(rule)} of chain ${names.of('chain', chain)}`);
  return ` It is let pass by ${[...new Set(rules)].join(', then by ')}.`;
}

function isByRule(drop: Drop): drop is Drop & { readonly rule: Step<'rule'> } {
  return drop.rule !== undefined && ['filtered', 'rejected', 'unreadable-rule'].includes(drop.reason);
}

function dropText(drop: Drop, packet: string, names: TraceNames): string {
  const { reason, route, nextHop } = drop;
  if (isByRule(drop)) {
    const { rule, chain, action } = drop.rule;
    const at = drop.port === undefined ? '' : `, at ${names.portOfDevice(drop.port)}`;
    return `by ${names.rule(rule)} of chain ${names.of('chain', chain)}${at}: ${names.ruleText(rule) ?? action}`;
  }
  const where = placeOf(drop, names);
  const port = drop.port === undefined ? 'the port' : names.port(drop.port);
  if (route !== undefined && (reason === 'blackhole' || reason === 'rejected')) {
    return `by ${where}: its route ${names.route(route.route)} is a ${route.kind}`;
  }
  if (reason === 'no-neighbor' && nextHop !== undefined) {
    return `by ${where}: nobody answers for ${nextHop.address}, the next hop by route ${route === undefined ? '' : names.route(route.route)}`;
  }
  // An agent of a later version may have other reasons.
  const why = Object.hasOwn(REASONS, reason) ? REASONS[reason]({ where, port, packet }) : reason;
  return `at ${where}: ${why}`;
}

function placeOf({ device }: Drop, names: TraceNames): string {
  return device === undefined ? 'the virtual network' : names.device(device.type, device.id);
}

interface Surroundings {
  readonly where: string;
  readonly port: string;
  readonly packet: string;
}

const REASONS: Readonly<Record<DropReason, (at: Surroundings) => string>> = {
  'simulation-failed': () => "a fault of the agent's own; its log says more",
  'no-port': () => 'the port is not there any more',
  'port-down': ({ port }) => `${port} is switched off`,
  'bridge-down': ({ where }) => `${where} is switched off`,
  'no-bridge': () => 'the bridge is not there any more',
  'multicast-source': () => 'its source is the MAC address of a group',
  'link-local': () => 'its destination is a MAC address that bridges do not forward',
  'same-port': ({ port }) => `its destination is behind ${port}, where it comes from`,
  isolated: ({ port }) => `the port that it comes from and ${port} are both isolated`,
  'other-vlan': () => 'the port is for another VLAN',
  loop: () => 'another copy has been here before: devices are linked in a circle',
  'unbound-port': ({ port }) => `${port} is on no interface: it is not bound, or its host does not have it up`,
  'no-tunnel': ({ port }) =>
    `there is no tunnel to the host of ${port}: it has no address in a tunnel zone of this one`,
  'unknown-tunnel-key': () => 'its tunnel key stands for nothing',
  'too-many-devices': () => 'it passes too many devices, perhaps in a circle',
  'no-router': () => 'the router is not there any more',
  'router-down': ({ where }) => `${where} is switched off`,
  'not-for-router': ({ where }) => `its destination MAC address is not that of ${where}`,
  'not-routable': () => 'routers do not forward such packets',
  'no-route': ({ packet }) => `it has no route to ${destinationOf(packet)}`,
  blackhole: () => 'a route drops it',
  rejected: () => 'it is rejected',
  filtered: () => 'a filter drops it',
  'unreadable-rule': () => 'a rule cannot be read by this version of the agent',
  'service-port': ({ port }) => `${port} is for what is sent through an inserted service only`,
  'no-connection-state': () => "rules ask for the state of its connection, and the host's datapath does not track it",
  'ttl-exceeded': () => 'its TTL ends here',
  'no-neighbor': () => 'nobody answers for the next hop',
  'for-router': ({ where }) => `it is for ${where} itself, which has no use for it`,
  'stale-recirculation': () => 'the topology changed while it was on its way',
  'translated-twice': () => 'two rules would translate it in one zone',
  'no-member': () => 'no member of the pool takes new connections',
  'no-nat-port': () => 'no port of the address to translate to is free',
  'no-nat-connection': () => 'it answers no connection that was translated',
};

/** The address, without a port. */
function destinationOf(packet: string): string {
  const text = packet.slice(packet.lastIndexOf('> ') + 2);
  return /^\[(.*)\]/.exec(text)?.[1] ?? text.replace(/^([0-9.]+):\d+$/, '$1');
}

/** `tcp 10.0.0.1:1000 > 10.0.0.2:80` of the words of a packet. */
function networkPart(packet: string): string {
  return packet.replace(/, (ttl|vlan|first fragment|later fragment|[0-9a-f]{2}:).*$/, '');
}
