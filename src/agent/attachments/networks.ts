import { join } from 'node:path';
import * as z from 'zod';
import { InvalidInputError } from '../../errors.js';
import { defaultBlockSize } from '../../ipam/pool-layout.js';
import { bridgeAddressPoolPath } from '../../nsdb/layout.js';
import { parentPath } from '../../nsdb/path.js';
import { ObjectExistsError, type TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import { parseCidr } from '../../packet/ip.js';
import { readStateFolder, writeDurableStateFile } from '../../state-file.js';
import { idFromName } from '../../topology/id.js';
import { type AddressPool, addressPoolSchema } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';

/** A range of addresses of a network, in canonical text. */
export interface Subnet {
  readonly cidr: string;
  /** Undefined: that of the pool if it exists, else the default, which may differ between versions. */
  readonly blockSize?: number;
  readonly gateway?: string;
}

/** A network as a front end describes it. */
export interface NetworkDescription {
  readonly name: string;
  readonly subnets: readonly Subnet[];
}

/** A bridge with its address pools, in the order of the subnets. */
export interface Network {
  readonly name: string;
  readonly bridgeId: string;
  readonly pools: readonly AddressPool[];
}

const networkSchema = z.strictObject({ name: z.string(), bridgeId: z.uuid(), pools: z.array(addressPoolSchema) });

export interface NetworksOptions {
  readonly repository: TopologyRepository;
  /** Folder on disk, made if need be: one file a network. */
  readonly folder: string;
  readonly warn: (message: string, error?: unknown) => void;
}

/**
 * The networks that containers of this host are in: made in the NSDB by whichever host needs one first, and kept on disk,
 * so that they can be used when the NSDB cannot be reached. Identifiers follow from names, so hosts that make the same
 * network at once make the same objects.
 */
export class Networks {
  readonly #options: NetworksOptions;
  readonly #known: Map<string, Network>;
  /** Networks that were compared with the NSDB since the start, and since the last session with it was lost. */
  readonly #verified = new Set<string>();
  readonly #verifying = new Map<string, Promise<void>>();
  readonly #closing = new AbortController();
  readonly #unsubscribe: () => void;

  private constructor(options: NetworksOptions, known: Map<string, Network>) {
    this.#options = options;
    this.#known = known;
    this.#unsubscribe = options.repository.store.onState((event) => {
      if (event === 'session-lost') this.#verified.clear();
    });
  }

  static async open(options: NetworksOptions): Promise<Networks> {
    const files = await readStateFolder(
      options.folder,
      (value, name) => validate(networkSchema, value, name),
      ({ path, movedTo, error }) => options.warn(`${path} is damaged, moved to ${movedTo}`, error),
    );
    return new Networks(options, new Map([...files.values()].map((network) => [network.name, network])));
  }

  get(name: string): Network | undefined {
    return this.#known.get(name);
  }

  list(): Network[] {
    return [...this.#known.values()];
  }

  /**
   * The network, made if it does not exist. Does not wait for the NSDB if the network is known on this host.
   * @throws InvalidInputError naming the field in which an existing network of the name differs; StoreUnavailableError
   */
  async ensure(description: NetworkDescription, signal?: AbortSignal): Promise<Network> {
    const known = this.#known.get(description.name);
    if (known !== undefined && difference(description, known.pools) === undefined) {
      if (!this.#verified.has(known.name)) this.#verifyInBackground(description);
      return known;
    }
    return this.#make(description, signal);
  }

  async #make(description: NetworkDescription, signal?: AbortSignal): Promise<Network> {
    const { repository, folder, warn } = this.#options;
    const bridgeId = idFromName('bridge', description.name);
    if ((await repository.get('bridge', bridgeId, signal)) === undefined) {
      await ignoreExisting(repository.create('bridge', { id: bridgeId, name: description.name }, signal));
    }
    let existing = await this.#readPools(bridgeId, signal);
    // Some of the pools may be there already, from a host that makes the same network now or has crashed doing so.
    const fault = difference(description, existing, true);
    if (fault !== undefined) throw fault;
    for (const subnet of description.subnets) {
      if (existing.some((pool) => pool.cidr === subnet.cidr)) continue;
      await ignoreExisting(repository.create('address-pool', poolOf(bridgeId, subnet), signal));
    }
    existing = await this.#readPools(bridgeId, signal);
    const faultNow = difference(description, existing);
    if (faultNow !== undefined) throw faultNow;

    const pools = description.subnets.map((subnet) => existing.find((pool) => pool.cidr === subnet.cidr)!);
    const network: Network = { name: description.name, bridgeId, pools };
    this.#known.set(network.name, network);
    this.#verified.add(network.name);
    try {
      await writeDurableStateFile(join(folder, `${bridgeId}.json`), network);
    } catch (error) {
      warn(`network ${network.name}: cannot be kept on disk`, error);
    }
    return network;
  }

  async #readPools(bridgeId: string, signal?: AbortSignal): Promise<AddressPool[]> {
    const { repository } = this.#options;
    const folder = parentPath(bridgeAddressPoolPath(bridgeId, 'x'))!;
    const pools: AddressPool[] = [];
    for (const id of (await repository.store.children(folder, { signal })) ?? []) {
      const pool = await repository.get('address-pool', id, signal);
      if (pool !== undefined) pools.push(pool.object);
    }
    return pools;
  }

  /** See that the NSDB still has a network that was read from disk; it may have been restored or emptied. */
  #verifyInBackground(description: NetworkDescription): void {
    const { repository, warn } = this.#options;
    const { name } = description;
    if (repository.store.state !== 'connected' || this.#verifying.has(name)) return;
    const verifying = this.#make(description, this.#closing.signal)
      .then(
        () => undefined,
        (error: unknown) => {
          if (this.#closing.signal.aborted) return;
          warn(`network ${name}: cannot be compared with the NSDB`, error);
          // What is on disk is outdated. The next container gets the error.
          if (error instanceof InvalidInputError) this.#known.delete(name);
        },
      )
      .finally(() => this.#verifying.delete(name));
    this.#verifying.set(name, verifying);
  }

  async close(): Promise<void> {
    this.#unsubscribe();
    this.#closing.abort();
    await Promise.all(this.#verifying.values());
  }
}

function poolOf(bridgeId: string, subnet: Subnet): AddressPool {
  return {
    id: idFromName('pool', bridgeId, subnet.cidr),
    bridgeId,
    cidr: subnet.cidr,
    blockSize: subnet.blockSize ?? defaultBlockSize(parseCidr(subnet.cidr)!),
    ...(subnet.gateway === undefined ? {} : { gateway: subnet.gateway }),
  };
}

/** The first field in which the description differs from the pools; with `partial` pools may be missing. */
function difference(
  description: NetworkDescription,
  pools: readonly AddressPool[],
  partial = false,
): InvalidInputError | undefined {
  const { name, subnets } = description;
  for (const [i, subnet] of subnets.entries()) {
    const pool = pools.find((candidate) => candidate.cidr === subnet.cidr);
    if (pool === undefined) {
      if (partial) continue;
      const known = pools.map((candidate) => candidate.cidr).join(', ');
      return new InvalidInputError(
        `subnets[${i}].cidr`,
        subnet.cidr,
        `network ${name} exists with the subnets ${known}`,
      );
    }
    for (const field of ['gateway', 'blockSize'] as const) {
      if (subnet[field] === pool[field] || (field === 'blockSize' && subnet.blockSize === undefined)) continue;
      const there = pool[field] === undefined ? `without ${field}` : `with ${field} ${pool[field]}`;
      return new InvalidInputError(`subnets[${i}].${field}`, subnet[field], `subnet ${subnet.cidr} exists ${there}`);
    }
  }
  const other = pools.find((pool) => !subnets.some((subnet) => subnet.cidr === pool.cidr));
  if (other === undefined) return undefined;
  return new InvalidInputError(
    'subnets',
    subnets.map((subnet) => subnet.cidr),
    `network ${name} exists and has the subnet ${other.cidr} too`,
  );
}

async function ignoreExisting(creation: Promise<unknown>): Promise<void> {
  try {
    await creation;
  } catch (error) {
    if (!(error instanceof ObjectExistsError)) throw error;
  }
}
