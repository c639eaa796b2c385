import type { Attachment, AttachmentKey } from '../src/agent/attachments/attachment.js';
import type { Attachments } from '../src/agent/attachments/attachments.js';
import type { Networks } from '../src/agent/attachments/networks.js';
import { InvalidInputError, MidonetError } from '../src/errors.js';
import type { Ipam } from '../src/ipam/ipam.js';
import {
  type ConfigurationHead,
  parseJson,
  readConfiguration,
  readHead,
  readValidAttachments,
} from './configuration.js';
import { type CniEnvironment, readEnvironment } from './environment.js';
import { CniCode, CniError, toCniError } from './errors.js';
import type { CniReply, CniRequest } from './frame.js';
import { buildResult, readListed, readPreviousResult, resultDifference } from './result.js';
import { atLeast, type CniVersion, NEWEST_VERSION, SUPPORTED_VERSIONS } from './versions.js';

export interface CniVerbsOptions {
  readonly attachments: Attachments;
  readonly networks: Networks;
  readonly ipam: Ipam;
  /** The largest MTU that packets of containers may have on the way to any host. */
  readonly mtu: () => number;
  readonly storeConnected: () => boolean;
  /** Why this host does not forward packets now, or undefined if it does. */
  readonly fault?: (signal: AbortSignal) => string | undefined | Promise<string | undefined>;
  /** Told of every call that failed. */
  readonly failed?: (request: CniRequest, error: CniError) => void;
}

/**
 * The verbs of the CNI specification 1.1.0, for all versions in SUPPORTED_VERSIONS. Errors are an object on standard output
 * and exit status 1.
 */
export class CniVerbs {
  readonly #options: CniVerbsOptions;

  constructor(options: CniVerbsOptions) {
    this.#options = options;
  }

  /** Answer a call; does not reject. A {@link CniHandler}. */
  readonly handle = async (request: CniRequest, signal: AbortSignal): Promise<CniReply> => {
    let echoed: string = NEWEST_VERSION;
    try {
      let raw: Record<string, unknown> | undefined;
      let decodeError: unknown;
      try {
        raw = parseJson(request.stdin);
        if (typeof raw.cniVersion === 'string') echoed = raw.cniVersion;
      } catch (error) {
        decodeError = error;
      }
      const environment = readEnvironment(request.environment, request.pid);
      if (environment.command === 'VERSION') {
        return success({ cniVersion: echoed, supportedVersions: SUPPORTED_VERSIONS });
      }
      if (raw === undefined) throw decodeError;
      const head = readHead(raw);
      requireVersion(environment, head.version);
      return success(await this.#run(environment, head, signal));
    } catch (error) {
      const failure = toCniError(signal.aborted && error === signal.reason ? abandoned(error) : error);
      this.#options.failed?.(request, failure);
      return {
        status: 1,
        stdout: `${JSON.stringify({
          cniVersion: echoed,
          code: failure.cniCode,
          msg: failure.message,
          ...(failure.details === '' ? {} : { details: failure.details }),
        })}\n`,
        stderr: '',
      };
    }
  };

  #run(environment: CniEnvironment, head: ConfigurationHead, signal: AbortSignal): Promise<object | undefined> {
    switch (environment.command) {
      case 'ADD':
        return this.#add(environment, head, signal);
      case 'DEL':
        return this.#delete(environment, head);
      case 'CHECK':
        return this.#check(environment, head, signal);
      case 'GC':
        return this.#collectGarbage(head, signal);
      case 'STATUS':
        return this.#status(environment, head, signal);
      case 'VERSION':
        return Promise.resolve(undefined);
    }
  }

  async #add(environment: CniEnvironment, head: ConfigurationHead, signal: AbortSignal): Promise<object> {
    const config = readConfiguration(head, environment);
    const previous = readPreviousResult(head.raw.prevResult);
    const mtu = this.#mtu(config.mtu);
    const { containerId, interfaceName, namespacePath } = environment;
    const attachment = await this.#attach(async () => {
      const network = await this.#options.networks.ensure(config.network, signal);
      return this.#options.attachments.add(
        {
          network,
          containerId,
          interfaceName,
          namespacePath,
          mtu,
          mac: config.mac,
          addresses: config.addresses,
          defaultRoute: config.defaultRoute,
          owner: 'cni',
        },
        signal,
      );
    });
    return buildResult(head.version, attachment, config.dns, previous);
  }

  /** Errors about the namespace and the interface shall name the variables that they came from. */
  async #attach(add: () => Promise<Attachment>): Promise<Attachment> {
    try {
      return await add();
    } catch (error) {
      const variable = error instanceof MidonetError && VARIABLES.get(error.code);
      if (!variable) throw error;
      const { cniCode, message, details } = toCniError(error);
      throw new CniError(cniCode, `${variable}: ${message}`, details, { cause: error });
    }
  }

  #mtu(configured: number | undefined): number {
    const largest = this.#options.mtu();
    if (configured !== undefined && configured > largest) {
      throw new InvalidInputError(
        'config.mtu',
        configured,
        `expected at most ${largest}, what the network between the hosts leaves`,
      );
    }
    return configured ?? largest;
  }

  async #delete(environment: CniEnvironment, head: ConfigurationHead): Promise<undefined> {
    // Not ended by the signal: half of a removal is worse than one that nobody waits for.
    await this.#options.attachments.remove(keyOf(environment, head));
  }

  async #check(environment: CniEnvironment, head: ConfigurationHead, signal: AbortSignal): Promise<undefined> {
    const previous = readPreviousResult(head.raw.prevResult);
    if (previous === undefined) {
      throw new InvalidInputError('config.prevResult', undefined, 'expected the result of ADD');
    }
    let difference: string | undefined;
    try {
      const key = keyOf(environment, head);
      const listed = readListed(previous, key.interfaceName);
      const attachment = await this.#options.attachments.check(key, environment.namespacePath, listed, signal);
      difference = resultDifference(previous, attachment);
    } catch (error) {
      if (signal.aborted || !(error instanceof MidonetError)) throw error;
      throw new CniError(CniCode.CheckFailed, error.message, error.code, { cause: error });
    }
    if (difference !== undefined) throw new CniError(CniCode.CheckFailed, difference);
    return undefined;
  }

  async #collectGarbage(head: ConfigurationHead, signal: AbortSignal): Promise<undefined> {
    const valid = readValidAttachments(head.raw);
    const errors = await this.#options.attachments.collectGarbage(head.name, valid, signal);
    if (errors.length === 0) return undefined;
    throw new CniError(
      CniCode.GarbageCollectionFailed,
      `${errors.length} attachments could not be removed`,
      errors.map((error) => (error instanceof Error ? error.message : String(error))).join('; '),
    );
  }

  async #status(environment: CniEnvironment, head: ConfigurationHead, signal: AbortSignal): Promise<undefined> {
    const config = readConfiguration(head, environment);
    const fault = await this.#options.fault?.(signal);
    if (fault !== undefined) throw new CniError(CniCode.LimitedConnectivity, fault);
    const network = this.#options.networks.get(config.network.name);
    if (network === undefined) {
      if (this.#options.storeConnected()) return undefined;
      throw new CniError(
        CniCode.NotAvailable,
        `network ${config.network.name} is not known on this host and the NSDB cannot be reached`,
      );
    }
    for (const pool of network.pools) {
      try {
        await this.#options.ipam.pool(pool).requireFree(signal);
      } catch (error) {
        if (signal.aborted || !(error instanceof MidonetError)) throw error;
        throw new CniError(CniCode.NotAvailable, error.message, error.code, { cause: error });
      }
    }
    return undefined;
  }
}

const VARIABLES: ReadonlyMap<string, string> = new Map([
  ['MN_NAMESPACE', 'CNI_NETNS'],
  ['MN_INTERFACE_EXISTS', 'CNI_IFNAME'],
]);

function keyOf(environment: CniEnvironment, head: ConfigurationHead): AttachmentKey {
  const { containerId, interfaceName } = environment;
  return { network: head.name, containerId, interfaceName };
}

/** CHECK came with 0.4.0, GC and STATUS with 1.1.0. */
function requireVersion(environment: CniEnvironment, version: CniVersion): void {
  const { command } = environment;
  const since = command === 'CHECK' ? '0.4.0' : command === 'GC' || command === 'STATUS' ? '1.1.0' : '0.3.0';
  if (atLeast(version, since)) return;
  throw new CniError(
    CniCode.IncompatibleVersion,
    `config.cniVersion: ${command} needs ${since} or later, got "${version}"`,
  );
}

function abandoned(reason: unknown): CniError {
  const message = reason instanceof Error ? reason.message : String(reason);
  return new CniError(CniCode.TryAgainLater, `the call was ended: ${message}`);
}

function success(result: object | undefined): CniReply {
  return { status: 0, stdout: result === undefined ? '' : `${JSON.stringify(result)}\n`, stderr: '' };
}
