/**
 * Numbers of the kernel's Open vSwitch interface (linux/openvswitch.h, Linux 6.1). Names follow the header without its
 * `OVS_` prefix. Open vSwitch's own copy of that header diverges (tunnel attribute 16, key attributes 29 and 30): these
 * are the kernel's.
 */

export const DATAPATH_FAMILY = 'ovs_datapath';
export const VPORT_FAMILY = 'ovs_vport';
export const FLOW_FAMILY = 'ovs_flow';
export const PACKET_FAMILY = 'ovs_packet';
export const METER_FAMILY = 'ovs_meter';
export const VPORT_GROUP = 'ovs_vport';
export const DATAPATH_GROUP = 'ovs_datapath';

/** `genlmsghdr.version` of each family. Version 2 of the datapath family means that features are negotiated. */
export const DATAPATH_VERSION = 2;
export const VPORT_VERSION = 1;
export const FLOW_VERSION = 1;
export const PACKET_VERSION = 1;
export const METER_VERSION = 1;

/** Commands shared by the datapath, vport and flow families. */
export const Command = { NEW: 1, DEL: 2, GET: 3, SET: 4 } as const;

export const PacketCommand = { MISS: 1, ACTION: 2, EXECUTE: 3 } as const;

export const MeterCommand = { FEATURES: 1, SET: 2, DEL: 3, GET: 4 } as const;

/** sizeof(struct ovs_header): the datapath's ifindex, after the genlmsghdr of every message. */
export const OVS_HEADER_LENGTH = 4;

/** DP_MAX_PORTS of net/openvswitch/datapath.h: port numbers are below it. */
export const MAX_PORTS = 65535;

/** MAX_ACTIONS_BUFSIZE of net/openvswitch/flow_netlink.c: bytes of an action list. */
export const MAX_ACTIONS_LENGTH = 32 * 1024;

export const DatapathAttr = {
  NAME: 1,
  UPCALL_PID: 2,
  STATS: 3,
  MEGAFLOW_STATS: 4,
  USER_FEATURES: 5,
  PAD: 6,
  MASKS_CACHE_SIZE: 7,
  PER_CPU_PIDS: 8,
  IFINDEX: 9,
} as const;

export const DatapathFeature = {
  UNALIGNED: 1,
  VPORT_PIDS: 2,
  TC_RECIRC_SHARING: 4,
  DISPATCH_UPCALL_PER_CPU: 8,
} as const;

export const VportAttr = {
  PORT_NO: 1,
  TYPE: 2,
  NAME: 3,
  OPTIONS: 4,
  UPCALL_PID: 5,
  STATS: 6,
  PAD: 7,
  IFINDEX: 8,
  NETNSID: 9,
} as const;

export const VportType = { NETDEV: 1, INTERNAL: 2 } as const;

export const FlowAttr = {
  KEY: 1,
  ACTIONS: 2,
  STATS: 3,
  TCP_FLAGS: 4,
  USED: 5,
  CLEAR: 6,
  MASK: 7,
  PROBE: 8,
  UFID: 9,
  UFID_FLAGS: 10,
  PAD: 11,
} as const;

export const PacketAttr = {
  PACKET: 1,
  KEY: 2,
  ACTIONS: 3,
  USERDATA: 4,
  EGRESS_TUN_KEY: 5,
  PROBE: 8,
  MRU: 9,
  LEN: 10,
  HASH: 11,
} as const;

export const KeyAttr = {
  ENCAP: 1,
  PRIORITY: 2,
  IN_PORT: 3,
  ETHERNET: 4,
  VLAN: 5,
  ETHERTYPE: 6,
  IPV4: 7,
  IPV6: 8,
  TCP: 9,
  UDP: 10,
  ICMP: 11,
  ICMPV6: 12,
  ARP: 13,
  ND: 14,
  SKB_MARK: 15,
  TUNNEL: 16,
  SCTP: 17,
  TCP_FLAGS: 18,
  DP_HASH: 19,
  RECIRC_ID: 20,
  MPLS: 21,
  CT_STATE: 22,
  CT_ZONE: 23,
  CT_MARK: 24,
  CT_LABELS: 25,
  CT_ORIG_TUPLE_IPV4: 26,
  CT_ORIG_TUPLE_IPV6: 27,
  NSH: 28,
  TUNNEL_INFO: 31,
  IPV6_EXTHDRS: 32,
} as const;

export const TunnelAttr = {
  ID: 0,
  IPV4_SRC: 1,
  IPV4_DST: 2,
  TOS: 3,
  TTL: 4,
  DONT_FRAGMENT: 5,
  CSUM: 6,
  OAM: 7,
  GENEVE_OPTS: 8,
  TP_SRC: 9,
  TP_DST: 10,
  VXLAN_OPTS: 11,
  IPV6_SRC: 12,
  IPV6_DST: 13,
  PAD: 14,
  ERSPAN_OPTS: 15,
  IPV4_INFO_BRIDGE: 16,
} as const;

export const ActionAttr = {
  OUTPUT: 1,
  USERSPACE: 2,
  SET: 3,
  PUSH_VLAN: 4,
  POP_VLAN: 5,
  RECIRC: 7,
  HASH: 8,
  SET_MASKED: 11,
  CT: 12,
  TRUNC: 13,
  CT_CLEAR: 16,
  METER: 19,
  CLONE: 20,
} as const;

export const UserspaceAttr = { PID: 1, USERDATA: 2, EGRESS_TUN_PORT: 3, ACTIONS: 4 } as const;

export const CtAttr = {
  COMMIT: 1,
  ZONE: 2,
  MARK: 3,
  LABELS: 4,
  HELPER: 5,
  NAT: 6,
  FORCE_COMMIT: 7,
  EVENTMASK: 8,
  TIMEOUT: 9,
} as const;

export const NatAttr = {
  SRC: 1,
  DST: 2,
  IP_MIN: 3,
  IP_MAX: 4,
  PROTO_MIN: 5,
  PROTO_MAX: 6,
  PERSISTENT: 7,
  PROTO_HASH: 8,
  PROTO_RANDOM: 9,
} as const;

export const MeterAttr = {
  ID: 1,
  KBPS: 2,
  STATS: 3,
  BANDS: 4,
  USED: 5,
  CLEAR: 6,
  MAX_METERS: 7,
  MAX_BANDS: 8,
  PAD: 9,
} as const;

export const BandAttr = { TYPE: 1, RATE: 2, BURST: 3, STATS: 4 } as const;

/** OVS_METER_BAND_TYPE_DROP */
export const BAND_DROP = 1;

/** OVS_HASH_ALG_L4 */
export const HASH_ALGORITHM_L4 = 0;

export const EtherType = {
  IPV4: 0x0800,
  ARP: 0x0806,
  RARP: 0x8035,
  VLAN: 0x8100,
  IPV6: 0x86dd,
  MPLS: 0x8847,
  MPLS_MULTICAST: 0x8848,
  VLAN_SERVICE: 0x88a8,
  NSH: 0x894f,
  /** In a FlowKey: the frame has a length field instead. The kernel leaves the attribute out. */
  NONE: 0x05ff,
} as const;

export const IpProtocol = { ICMP: 1, TCP: 6, UDP: 17, ICMPV6: 58, SCTP: 132 } as const;

export const ND_SOLICITATION = 135;
export const ND_ADVERTISEMENT = 136;
