import fc from 'fast-check';
import type { Action, NatSpec, TunnelKey } from '../../../src/flow/action.js';
import { FLOW_KEY_WORDS, FlowKey, Frag, VLAN_PRESENT, Word } from '../../../src/flow/key.js';
import { FlowMask } from '../../../src/flow/mask.js';

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u8 = fc.integer({ min: 0, max: 0xff });
const mac = fc.integer({ min: 0, max: 0xffff_ffff_ffff });
const address = fc.array(u32, { minLength: 4, maxLength: 4 });

interface Network {
  readonly ethType: number;
  readonly protocol: number;
  readonly frag: number;
}

const networks: fc.Arbitrary<Network> = fc.oneof(
  fc.record({
    ethType: fc.constantFrom(0x0800, 0x86dd),
    protocol: fc.constantFrom(1, 6, 17, 47, 58, 132),
    frag: fc.constantFrom(Frag.NONE, Frag.FIRST, Frag.LATER),
  }),
  fc.record({ ethType: fc.constantFrom(0x0806, 0x8035), protocol: u8, frag: fc.constant(0) }),
  fc.record({ ethType: fc.constantFrom(0x05ff, 0x88cc), protocol: fc.constant(0), frag: fc.constant(0) }),
);

/** Keys as the kernel extracts them from packets: fields of headers that are not there are zero. */
export const packetKeys: fc.Arbitrary<FlowKey> = fc
  .record({
    metadata: fc.record({
      inPort: fc.integer({ min: 0, max: 65534 }),
      recirc: u32,
      hash: u32,
      mark: u32,
      priority: u32,
      ctState: u8,
      ctZone: u16,
      ctMark: u32,
      labels: address,
    }),
    tunnel: fc.option(
      fc.record({ id: u32, src: u32, dst: fc.integer({ min: 1, max: 0xffff_ffff }), tos: u8, ttl: u8, flags: u8 }),
    ),
    src: mac,
    dst: mac,
    vlan: fc.option(fc.record({ tci: u16, tpid: fc.constantFrom(0x8100, 0x88a8) })),
    network: networks,
    from: address,
    to: address,
    tos: u8,
    ttl: u8,
    label: fc.integer({ min: 0, max: 0xf_ffff }),
    ports: fc.tuple(u16, u16, fc.integer({ min: 0, max: 0xfff })),
    icmp: fc.tuple(fc.oneof(u8, fc.constantFrom(135, 136)), u8),
    target: address,
    sha: mac,
    tha: mac,
  })
  .map((r) => {
    const key = new FlowKey();
    key.inPort = r.metadata.inPort;
    key.recircId = r.metadata.recirc;
    key.dpHash = r.metadata.hash;
    key.skbMark = r.metadata.mark;
    key.priority = r.metadata.priority;
    key.ctState = r.metadata.ctState;
    key.ctZone = r.metadata.ctZone;
    key.ctMark = r.metadata.ctMark;
    key.words.set(r.metadata.labels, Word.CT_LABELS);
    if (r.tunnel !== null) {
      key.tunId = r.tunnel.id;
      key.tunSrc = r.tunnel.src;
      key.tunDst = r.tunnel.dst;
      key.tunTos = r.tunnel.tos;
      key.tunTtl = r.tunnel.ttl;
      key.tunFlags = (r.tunnel.flags & 0xf) | (r.tunnel.id === 0 ? 0 : 8);
    }
    key.ethSrc = r.src;
    key.ethDst = r.dst;
    if (r.vlan !== null) {
      key.vlanTci = r.vlan.tci | VLAN_PRESENT;
      key.vlanTpid = r.vlan.tpid;
    }
    const { ethType, protocol, frag } = r.network;
    key.ethType = ethType;
    if (ethType === 0x0806 || ethType === 0x8035) {
      key.ipv4Src = r.from[0];
      key.ipv4Dst = r.to[0];
      key.nwProto = protocol;
      key.arpSha = r.sha;
      key.arpTha = r.tha;
    }
    if (ethType !== 0x0800 && ethType !== 0x86dd) {
      return key;
    }
    key.nwProto = protocol;
    key.nwFrag = frag;
    key.nwTos = r.tos;
    key.nwTtl = r.ttl;
    if (ethType === 0x0800) {
      key.ipv4Src = r.from[0];
      key.ipv4Dst = r.to[0];
    } else {
      key.words.set(r.from, Word.NW_SRC);
      key.words.set(r.to, Word.NW_DST);
      key.ipv6Label = r.label;
    }
    if (frag === Frag.LATER) {
      return key;
    }
    if (protocol === 6 || protocol === 17 || protocol === 132) {
      key.tpSrc = r.ports[0];
      key.tpDst = r.ports[1];
      key.tcpFlags = protocol === 6 ? r.ports[2] : 0;
    } else if (protocol === (ethType === 0x0800 ? 1 : 58)) {
      key.tpSrc = r.icmp[0];
      key.tpDst = r.icmp[1];
      if (protocol === 58 && (key.tpSrc === 135 || key.tpSrc === 136)) {
        key.words.set(r.target, Word.ND_TARGET);
        key.arpSha = r.sha;
        key.arpTha = r.tha;
      }
    }
    return key;
  });

/** Any bits, most words wholly wildcarded or wholly matched as real masks are. */
export const masks: fc.Arbitrary<FlowMask> = fc
  .array(fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.constant(0xffff_ffff) }, u32), {
    minLength: FLOW_KEY_WORDS,
    maxLength: FLOW_KEY_WORDS,
  })
  .map((words) => new FlowMask(Uint32Array.from(words)));

const tunnels: fc.Arbitrary<TunnelKey> = fc.record({
  id: u32,
  src: u32,
  dst: fc.integer({ min: 1, max: 0xffff_ffff }),
  tos: u8,
  ttl: u8,
  flags: fc.integer({ min: 0, max: 15 }),
});

const ports = fc.tuple(u16, u16);

const nats: fc.Arbitrary<NatSpec> = fc.oneof(
  fc.constant<NatSpec>({ kind: 'restore' }),
  fc
    .record({
      kind: fc.constantFrom('src' as const, 'dst' as const),
      ip: fc.option(
        fc.oneof(
          fc.tuple(
            u32.map((w) => [w]),
            u32.map((w) => [w]),
          ),
          fc.tuple(address, address),
        ),
      ),
      ports: fc.option(ports),
      persistent: fc.boolean(),
      random: fc.boolean(),
    })
    .map((r) => ({
      kind: r.kind,
      ...(r.ip === null ? {} : { ipMin: r.ip[0], ipMax: r.ip[1] }),
      ...(r.ports === null ? {} : { portMin: r.ports[0], portMax: r.ports[1] }),
      persistent: r.persistent,
      random: r.random,
    })),
);

/** Rewrites of fields that the kernel can rewrite, in a packet of some EtherType and protocol. */
const sets: fc.Arbitrary<Action> = fc.record({ key: packetKeys, mask: masks }).map(({ key, mask }) => {
  const settable: number[] = [Word.SKB_MARK, Word.PRIORITY, Word.ETH_SRC + 1, Word.ETH_DST + 1];
  if (key.ethType === 0x0800) settable.push(Word.NW_SRC, Word.NW_DST);
  if (key.ethType === 0x86dd) for (let i = 0; i < 4; i++) settable.push(Word.NW_SRC + i, Word.NW_DST + i);
  const m = new FlowKey();
  for (const word of settable) m.words[word] = mask.words[word];
  m.words[Word.ETH_SRC] = mask.words[Word.ETH_SRC] & 0xffff;
  m.words[Word.ETH_DST] = mask.words[Word.ETH_DST] & 0xffff;
  if (key.ethType === 0x0800 || key.ethType === 0x86dd) {
    m.words[Word.NW_TOS] = mask.words[Word.NW_TOS] & 0xff;
    m.words[Word.NW_TTL] = mask.words[Word.NW_TTL] & 0xff;
  }
  if (key.ethType === 0x86dd) m.words[Word.IPV6_LABEL] = mask.words[Word.IPV6_LABEL] & 0xf_ffff;
  if (key.nwProto === 6 || key.nwProto === 17 || key.nwProto === 132) {
    m.words[Word.TP_SRC] = mask.words[Word.TP_SRC] & 0xffff;
    m.words[Word.TP_DST] = mask.words[Word.TP_DST] & 0xffff;
  }
  m.words[Word.SKB_MARK] |= 1;
  return { type: 'set', key, mask: m };
});

const flat: fc.Arbitrary<Action> = fc.oneof(
  fc.record({ type: fc.constant('output' as const), port: fc.integer({ min: 0, max: 65534 }) }),
  fc.constant<Action>({ type: 'userspace' }),
  fc.record({ type: fc.constant('userspace' as const), userdata: fc.uint8Array({ maxLength: 40, size: 'max' }) }),
  sets,
  fc.record({ type: fc.constant('set-tunnel' as const), tunnel: tunnels }),
  fc.record({
    type: fc.constant('push-vlan' as const),
    tpid: fc.constantFrom(0x8100, 0x88a8),
    tci: u16.map((tci) => tci | VLAN_PRESENT),
  }),
  fc.constant<Action>({ type: 'pop-vlan' }),
  fc
    .record(
      {
        type: fc.constant('ct' as const),
        zone: u16,
        commit: fc.boolean(),
        forceCommit: fc.constant(true as const),
        nat: nats,
      },
      { requiredKeys: ['type', 'zone'] },
    )
    .map((ct): Action => (ct.forceCommit ? { ...ct, commit: true } : ct)),
  fc.record({ zone: u16, mark: u32, markMask: u32 }).map(
    ({ zone, mark, markMask }): Action => ({
      type: 'ct',
      zone,
      commit: true,
      mark: (mark & markMask) >>> 0,
      markMask,
    }),
  ),
  fc.record({ type: fc.constant('ct' as const), zone: u16, commit: fc.constant(true), mark: u32 }),
  fc.constant<Action>({ type: 'ct-clear' }),
  fc.record({ type: fc.constant('recirc' as const), id: u32 }),
  fc.record({ type: fc.constant('hash' as const), basis: u32 }),
  fc.record({ type: fc.constant('trunc' as const), maxLength: u32 }),
  fc.record({ type: fc.constant('meter' as const), id: u32 }),
);

/** Action lists without two rewrites in a row, which come back as one. */
export const actionLists: fc.Arbitrary<Action[]> = fc.letrec<{ list: Action[]; action: Action }>((tie) => ({
  list: fc
    .array(tie('action'), { maxLength: 6 })
    .map((list) => list.filter((action, i) => !(action.type === 'set' && list[i - 1]?.type === 'set'))),
  action: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    flat,
    tie('list').map((actions): Action => ({ type: 'clone', actions })),
  ),
})).list;
