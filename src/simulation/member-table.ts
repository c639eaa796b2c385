/** A member as the choice sees it. */
export interface TableMember {
  /** The same on every host: choices follow from it. */
  readonly id: string;
  /** Share of the connections relative to the other members; 0: none. */
  readonly weight: number;
  /** Whether it takes connections that begin. */
  readonly isAvailable: boolean;
}

/** Log2 of the numbers of buckets. They are few and far apart, because a change of the number moves most buckets. */
const SIZES = [8, 10, 12, 14, 16];

/** So many buckets for each member keep shares within about 3 percent of what the weights say. */
const BUCKETS_PER_MEMBER = 32;

/**
 * Which member of a pool takes a connection. It follows from the members alone, so that all hosts choose alike, in two
 * stages:
 *
 * - Every member, available or not, owns buckets in proportion to its weight. They are dealt out as in Maglev (Eisenbud
 *   and others, NSDI 2016, section 3.4): in turns, each member takes the next free bucket of a permutation of its own.
 *   Shares are exact to one bucket; a member that is added or removed, or a weight that changes, moves few buckets beyond
 *   its own.
 * - The buckets of a member that is not available go where weighted rendezvous hashing puts them among those that are
 *   (Thaler and Ravishankar 1998; Schindelhauer and Schomaker 2005). So a member that becomes unavailable moves its own
 *   buckets and no others, and has them back afterwards.
 *
 * Clients that stick to a member are placed by rendezvous hashing alone: there, any change moves only clients of the
 * member that changes.
 */
export class MemberTable<M extends TableMember> {
  /** How many of the low bits of a hash say which bucket. */
  readonly bits: number;
  /** In order of their identifiers, but for those without weight. */
  private readonly members: readonly M[];
  private readonly available: readonly M[];
  /** Hashes of the identifiers of `available`. */
  private readonly seeds: Int32Array;
  /** Who has each bucket, available or not, by index. */
  private readonly dealt: Int32Array;
  /** Who takes a bucket in place of its owner. Each is found when it is first asked for: with many members down all would take seconds. */
  private readonly standIns = new Map<number, M | undefined>();

  /** @param before the table of the same pool until now: while members and weights are the same, so is who has which bucket */
  constructor(members: readonly M[], before?: MemberTable<M>) {
    const sorted = members.filter((member) => member.weight > 0).sort((a, b) => (a.id < b.id ? -1 : 1));
    this.members = sorted;
    this.available = sorted.filter((member) => member.isAvailable);
    this.seeds = Int32Array.from(this.available, (member) => hashText(member.id));
    this.bits = SIZES.find((bits) => 2 ** bits >= BUCKETS_PER_MEMBER * sorted.length) ?? SIZES[SIZES.length - 1];
    const isDealt = before !== undefined && haveSameShares(before.members, sorted);
    this.dealt = isDealt ? before.dealt : dealBuckets(sorted, 2 ** this.bits);
  }

  /** Whether one member takes all connections, or nobody does. */
  get isDecided(): boolean {
    return this.available.length <= 1;
  }

  /** The member that takes a connection whose hash ends in these bits; undefined when no member is available. */
  ofBucket(bucket: number): M | undefined {
    const owner = this.dealtTo(bucket);
    return owner?.isAvailable ? owner : this.standIn(bucket);
  }

  /** The member that has the bucket, available or not. */
  dealtTo(bucket: number): M | undefined {
    return this.members[this.dealt[bucket]];
  }

  /** The member for all connections of a client, by its address in `words[offset..offset+count-1]`. */
  ofClient(words: Uint32Array, offset: number, count: number): M | undefined {
    let hash = count;
    for (let i = offset; i < offset + count; i++) hash = mix(hash ^ words[i]);
    return this.rendezvous(hash);
  }

  private standIn(bucket: number): M | undefined {
    const known = this.standIns.get(bucket);
    if (known !== undefined) return known;
    const found = this.rendezvous(mix(bucket));
    this.standIns.set(bucket, found);
    return found;
  }

  private rendezvous(hash: number): M | undefined {
    let best: M | undefined;
    let bestScore = Number.POSITIVE_INFINITY;
    for (let i = 0; i < this.available.length; i++) {
      // An exponentially distributed number: the least of several is each one's with the odds of the weights.
      const uniform = ((mix(hash ^ this.seeds[i]) >>> 0) + 0.5) / 2 ** 32;
      const score = -Math.log(uniform) / this.available[i].weight;
      if (score < bestScore) {
        best = this.available[i];
        bestScore = score;
      }
    }
    return best;
  }
}

function haveSameShares(a: readonly TableMember[], b: readonly TableMember[]): boolean {
  return a.length === b.length && a.every(({ id, weight }, i) => id === b[i].id && weight === b[i].weight);
}

/** Which member, by index, owns each of `count` buckets (a power of two); empty without members. */
function dealBuckets(members: readonly TableMember[], count: number): Int32Array {
  const owners = new Int32Array(count).fill(-1);
  if (members.length === 0) return owners;
  const shares = bucketShares(members, count);
  const seeds = members.map((member) => hashText(member.id));
  const next = seeds.map((seed) => mix(seed ^ 0x5bd1_e995) & (count - 1));
  for (const member of turns(shares, count)) {
    // An odd step visits every bucket once.
    const step = (seeds[member] << 1) | 1;
    let bucket = next[member];
    while (owners[bucket] >= 0) bucket = (bucket + step) & (count - 1);
    owners[bucket] = member;
    next[member] = bucket;
  }
  return owners;
}

/** How many of `count` buckets each member gets: by weight, but one at least while there are enough. */
function bucketShares(members: readonly TableMember[], count: number): Float64Array {
  const total = members.reduce((sum, member) => sum + member.weight, 0);
  return Float64Array.from(members, (member) => Math.max(1, (count * member.weight) / total));
}

/**
 * Whose turn it is, `count` times. Each member's turns are evenly spaced and independent of the others', so that a member
 * that comes or goes leaves the order of the rest as it is.
 */
function turns(shares: Float64Array, count: number): Int32Array {
  const members: number[] = [];
  const times: number[] = [];
  for (let member = 0; member < shares.length; member++) {
    for (let i = 0; i < Math.ceil(shares[member]); i++) {
      members.push(member);
      times.push((i + 0.5) / shares[member]);
    }
  }
  const order = Int32Array.from(members.keys());
  order.sort((a, b) => times[a] - times[b] || a - b);
  return order.subarray(0, count).map((index) => members[index]);
}

/** Every bit of the result depends on every bit of the word (the finalizer of MurmurHash3). */
function mix(word: number): number {
  let hash = word;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35);
  return hash ^ (hash >>> 16);
}

function hashText(text: string): number {
  let hash = text.length;
  for (let i = 0; i < text.length; i++) hash = mix(Math.imul(hash, 31) + text.charCodeAt(i));
  return hash;
}
