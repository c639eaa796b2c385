import * as z from 'zod';
import { parseMac } from '../packet/address.js';
import { parseIp } from '../packet/ip.js';
import {
  cidr,
  ipAddress,
  mac,
  nameSchema,
  reference,
  references,
  tenantId,
  uuid,
  vlanId,
  vlanPriority,
} from './fields.js';
import { positionSchema } from './position.js';

/** Chains of rules: firewalls, NAT, redirection. */

export const chainSchema = z.strictObject({
  id: uuid,
  name: nameSchema,
  tenantId,
  /** Whatever the owner wants to keep with the chain. */
  metadata: z.record(z.string(), z.string()).optional(),
});

const portRange = z
  .strictObject({ start: z.int().min(0).max(65_535), end: z.int().min(0).max(65_535) })
  .superRefine((range, context) => {
    if (range.start > range.end) {
      context.addIssue({ code: 'custom', path: ['end'], message: `expected at least the start, ${range.start}` });
    }
  });

/** A mask of a MAC address, written like one: the bits that are compared. */
const macMask = z.string().refine((text) => parseMac(text) !== undefined, 'expected a mask such as ff:ff:ff:00:00:00');

/** Fields of a condition whose sense {@link conditionSchema}.inverted turns round. */
const INVERTIBLE = [
  'inPortIds',
  'outPortIds',
  'portGroupId',
  'inPortGroupId',
  'outPortGroupId',
  'sourceAddressGroupId',
  'destinationAddressGroupId',
  'traversedBridgeIds',
  'traversedRouterIds',
  'etherType',
  'sourceMac',
  'destinationMac',
  'tos',
  'protocol',
  'source',
  'destination',
  'sourcePorts',
  'destinationPorts',
  'icmpDataSource',
  'icmpDataDestination',
] as const;

/**
 * What a packet must be like: all fields that are given have to match, each by itself the other way round when it is in
 * `inverted`, and all of them together when `conjunctionInverted` is set. Without a field everything matches. An empty
 * list matches nothing: what is left of a list when the objects in it were deleted.
 */
export const conditionSchema = z
  .strictObject({
    conjunctionInverted: z.boolean().optional(),
    inverted: z.array(z.enum(INVERTIBLE)).optional(),
    /** Connection tracking: packets in the direction that opened the connection, or in the other. */
    matchForwardFlow: z.boolean().optional(),
    matchReturnFlow: z.boolean().optional(),
    /** Ports of the device that the packet comes in and goes out at. */
    inPortIds: references,
    outPortIds: references,
    /** A group of the exterior port where the packet entered the virtual network. */
    portGroupId: reference.optional(),
    inPortGroupId: reference.optional(),
    outPortGroupId: reference.optional(),
    sourceAddressGroupId: reference.optional(),
    destinationAddressGroupId: reference.optional(),
    traversedBridgeIds: references,
    traversedRouterIds: references,
    noVlan: z.boolean().optional(),
    vlanId: vlanId.optional(),
    /** The priority in the VLAN tag. */
    vlanPriority: vlanPriority.optional(),
    /** EtherType, not a length. */
    etherType: z.int().min(0x600).max(0xffff).optional(),
    sourceMac: mac.optional(),
    sourceMacMask: macMask.optional(),
    destinationMac: mac.optional(),
    destinationMacMask: macMask.optional(),
    tos: z.int().min(0).max(255).optional(),
    /** IP protocol number; of ARP the operation. */
    protocol: z.int().min(0).max(255).optional(),
    source: cidr.optional(),
    destination: cidr.optional(),
    /** Ports of TCP, UDP and SCTP; type and code of ICMP. */
    sourcePorts: portRange.optional(),
    destinationPorts: portRange.optional(),
    /** The default is `header` when ports are compared, else `any`. */
    fragmentPolicy: z.enum(['any', 'header', 'nonheader', 'unfragmented']).optional(),
    /** Addresses of the packet that an ICMP error carries. */
    icmpDataSource: cidr.optional(),
    icmpDataDestination: cidr.optional(),
    /** Whether DNAT, or SNAT in reverse, changed the destination before. */
    matchDestinationRewritten: z.boolean().optional(),
  })
  .superRefine((condition, context) => {
    const fault = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message });
    for (const field of condition.inverted ?? []) {
      if (condition[field] === undefined) fault(field, 'expected a value, as the field is inverted');
    }
    const portsCompared = condition.sourcePorts !== undefined || condition.destinationPorts !== undefined;
    if (portsCompared && (condition.fragmentPolicy === 'any' || condition.fragmentPolicy === 'nonheader')) {
      fault('fragmentPolicy', 'expected header or unfragmented, as ports are compared');
    }
    for (const field of ['vlanId', 'vlanPriority'] as const) {
      if (condition.noVlan && condition[field] !== undefined) fault(field, 'expected none, as noVlan is set');
    }
    for (const side of ['source', 'destination'] as const) {
      if (condition[`${side}MacMask`] !== undefined && condition[`${side}Mac`] === undefined) {
        fault(`${side}Mac`, 'expected a MAC address, as there is a mask');
      }
    }
  });

/** Addresses and ports to translate to; without ports they stay as they are. */
const natTarget = z
  .strictObject({ start: ipAddress, end: ipAddress, ports: portRange.optional() })
  .superRefine((target, context) => {
    const start = parseIp(target.start);
    const end = parseIp(target.end);
    if (start === undefined || end === undefined) return;
    const differing = start.words.findIndex((word, i) => word !== end.words[i]);
    const isBehind = differing >= 0 && start.words[differing] > end.words[differing];
    if (start.family !== end.family || isBehind) {
      context.addIssue({ code: 'custom', path: ['end'], message: `expected an address of at least ${target.start}` });
    }
  });

const natAction = z.enum(['accept', 'continue', 'return']);
const natTargets = z.array(natTarget).min(1, 'expected at least one target');

const ruleFields = {
  id: uuid,
  name: nameSchema.optional(),
  chainId: reference,
  /** Where the rule stands among those of its chain, see position.ts; of two at the same place the lesser id is first. */
  position: positionSchema,
  condition: conditionSchema.default({}),
  metadata: z.record(z.string(), z.string()).optional(),
  /** The port of a floating IP that the rule was made for, and goes with. */
  floatingIpPortId: reference.optional(),
};

/** One rule of a chain: what to do with a packet that its condition matches. */
export const ruleSchema = z
  .discriminatedUnion('type', [
    z.strictObject({ ...ruleFields, type: z.enum(['accept', 'drop', 'reject', 'return', 'continue']) }),
    z.strictObject({ ...ruleFields, type: z.literal('jump'), jumpChainId: reference }),
    z.strictObject({ ...ruleFields, type: z.enum(['dnat', 'snat']), targets: natTargets, action: natAction }),
    z.strictObject({ ...ruleFields, type: z.enum(['reverse-dnat', 'reverse-snat']), action: natAction }),
    z.strictObject({
      ...ruleFields,
      type: z.literal('l2-transform'),
      action: z.enum(['accept', 'continue', 'drop', 'reject', 'return', 'redirect']),
      popVlan: z.boolean().optional(),
      pushVlanId: vlanId.optional(),
      /** Of the tag that is put on; 0 when absent. */
      pushVlanPriority: vlanPriority.optional(),
      /** Where `redirect` sends the packet: out of the port, or into it as if it had come from there. */
      targetPortId: reference.optional(),
      ingress: z.boolean().optional(),
      /** Whether the packet goes on when the target port is not up. */
      failOpen: z.boolean().optional(),
    }),
    z.strictObject({
      ...ruleFields,
      type: z.literal('trace'),
      traceRequestId: reference,
      limit: z.int().min(1).optional(),
    }),
  ])
  .superRefine((rule, context) => {
    const fault = (path: PropertyKey[], message: string) => context.addIssue({ code: 'custom', path, message });
    if (rule.type === 'l2-transform' && rule.action === 'redirect' && rule.targetPortId === undefined) {
      fault(['targetPortId'], 'expected a port, as the action is redirect');
    }
    if (rule.type === 'l2-transform' && rule.pushVlanPriority !== undefined && rule.pushVlanId === undefined) {
      fault(['pushVlanId'], 'expected a VLAN, as there is a priority');
    }
    if (rule.type !== 'dnat' && rule.type !== 'snat') return;
    const withPorts = rule.targets.filter(({ ports }) => ports !== undefined).length;
    // Checks run even when the list itself is at fault.
    if (rule.targets.length === 0) return;
    const isStatic = withPorts === 0;
    if (isStatic && rule.targets.length > 1) fault(['targets'], 'expected ports in each target, or a single target');
    if (isStatic && rule.targets[0].start !== rule.targets[0].end) {
      fault(['targets', 0, 'end'], 'expected one address, as the target has no ports');
    }
    if (!isStatic && withPorts < rule.targets.length) {
      const without = rule.targets.findIndex(({ ports }) => ports === undefined);
      fault(['targets', without, 'ports'], 'expected ports, as other targets have them');
    }
  });

export type Chain = z.output<typeof chainSchema>;
export type Condition = z.output<typeof conditionSchema>;
export type Rule = z.output<typeof ruleSchema>;
