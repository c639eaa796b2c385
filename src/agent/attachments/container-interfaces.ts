import { InterfaceExistsError, Links } from '../../datapath/link/links.js';
import { Namespace, NamespaceError } from '../../datapath/link/namespace.js';
import { LinkRequests } from '../../datapath/link/requests.js';
import { MidonetError } from '../../errors.js';
import { formatMac, requireMac } from '../../packet/address.js';
import { formatCidr, formatIp, parseCidr, parseIp } from '../../packet/ip.js';

/** An address with the length of its subnet's prefix, as text. */
export interface InterfaceAddress {
  readonly address: string;
  readonly prefix: number;
}

/** A route through the interface. */
export interface InterfaceRoute {
  /** `0.0.0.0/0`, `::/0` or another range. */
  readonly destination: string;
  readonly gateway?: string;
}

/** A pair of interfaces: one end on this host, the other in a container. */
export interface InterfacePair {
  readonly hostName: string;
  readonly hostMac: string;
  /** Says to people who look at the host's interfaces what this one is. */
  readonly alias: string;
  readonly namespacePath: string;
  /** Name, MAC address and so on of the container's end. */
  readonly name: string;
  readonly mac: string;
  readonly mtu: number;
  readonly addresses: readonly InterfaceAddress[];
  readonly routes: readonly InterfaceRoute[];
}

/** What a container's end looks like now. */
export interface InterfaceState {
  readonly mac: string | undefined;
  readonly mtu: number;
  readonly up: boolean;
  readonly addresses: readonly InterfaceAddress[];
  /** Of all routing tables. */
  readonly routes: readonly InterfaceRoute[];
}

/** The kernel as {@link Attachments} sees it. */
export interface ContainerInterfaces {
  /**
   * Text that stands for the namespace at `path`.
   * @throws NamespaceError if there is none, or it is the agent's own
   */
  namespaceIdentity(path: string): string;
  /**
   * Make the pair with its addresses and routes, both ends up. When it throws nothing is left of it.
   * @throws InterfaceNameTakenError if the container has an interface of that name; NamespaceError; NetlinkError
   */
  create(pair: InterfacePair, signal?: AbortSignal): Promise<void>;
  /** Remove the pair by its host end. Succeeds when it is gone. */
  remove(hostName: string): Promise<void>;
  /** Names of all interfaces of the host, and whether each is up. */
  hostInterfaces(signal?: AbortSignal): Promise<Map<string, boolean>>;
  /** The container's end, or undefined if there is no such interface. @throws NamespaceError */
  read(namespacePath: string, name: string, signal?: AbortSignal): Promise<InterfaceState | undefined>;
}

/** The container already has an interface of the name asked for. */
export class InterfaceNameTakenError extends MidonetError {
  constructor(name: string, namespacePath: string) {
    super('MN_INTERFACE_EXISTS', `there is already an interface ${name} in ${namespacePath}`);
  }
}

/** veth pairs. Close it. */
export class VethInterfaces implements ContainerInterfaces {
  readonly #host: Links;
  readonly #home: string;

  /** @param home where to make the host ends, used here only; the namespace the process is in if undefined */
  constructor(home?: Namespace) {
    this.#host = new Links(home);
    const namespace = home ?? Namespace.current();
    this.#home = namespace.identity;
    if (home === undefined) namespace.close();
  }

  namespaceIdentity(path: string): string {
    const namespace = this.#open(path);
    namespace.close();
    return namespace.identity;
  }

  #open(path: string): Namespace {
    const namespace = Namespace.open(path);
    if (namespace.identity === this.#home) {
      namespace.close();
      throw new NamespaceError(path, 'is the one the agent runs in, expected that of a container');
    }
    return namespace;
  }

  async create(pair: InterfacePair, signal?: AbortSignal): Promise<void> {
    const namespace = this.#open(pair.namespacePath);
    let container: Links | undefined;
    let made = false;
    try {
      container = new Links(namespace);
      await this.#makeVeth(pair, namespace, container, signal);
      made = true;
      const link = await container.get(pair.name, signal);
      if (link === undefined) throw new NamespaceError(pair.namespacePath, `interface ${pair.name} has gone again`);
      const requests = new LinkRequests().setLink(link.index, { up: true });
      for (const { address, prefix } of pair.addresses) {
        requests.addAddress(link.index, { ...parseIp(address)!, prefix });
      }
      for (const { destination, gateway } of pair.routes) {
        requests.addRoute({
          destination: parseCidr(destination)!,
          gateway: gateway === undefined ? undefined : parseIp(gateway),
          index: link.index,
        });
      }
      await container.apply(requests, signal);
    } catch (error) {
      if (made) await this.remove(pair.hostName);
      throw error;
    } finally {
      container?.close();
      namespace.close();
    }
  }

  /** The pair, with the other end made directly in the container's namespace. */
  async #makeVeth(pair: InterfacePair, namespace: Namespace, container: Links, signal?: AbortSignal): Promise<void> {
    const { hostName, hostMac, alias, name, mac, mtu } = pair;
    const request = () =>
      new LinkRequests().addVeth(
        { name: hostName, mtu, mac: requireMac(hostMac, 'hostMac'), up: true, alias },
        { name, mtu, mac: requireMac(mac, 'mac'), namespace },
      );
    try {
      await this.#host.apply(request(), signal);
    } catch (error) {
      if (!(error instanceof InterfaceExistsError)) {
        // An aborted request may have been carried out. What it made is recognised by its name at both ends.
        if (signal?.aborted && (await container.get(name))?.mac === requireMac(mac, 'mac')) await this.remove(hostName);
        throw error;
      }
      if ((await container.get(name, signal)) !== undefined) {
        throw new InterfaceNameTakenError(name, pair.namespacePath);
      }
      // Left over by an attachment of the same name whose record was lost.
      await this.#host.delete(hostName, signal);
      await this.#host.apply(request(), signal);
    }
  }

  remove(hostName: string): Promise<void> {
    return this.#host.delete(hostName);
  }

  async hostInterfaces(signal?: AbortSignal): Promise<Map<string, boolean>> {
    return new Map((await this.#host.list(signal)).map((link) => [link.name, link.up]));
  }

  async read(namespacePath: string, name: string, signal?: AbortSignal): Promise<InterfaceState | undefined> {
    const namespace = this.#open(namespacePath);
    let links: Links | undefined;
    try {
      links = new Links(namespace);
      const link = await links.get(name, signal);
      if (link === undefined) return undefined;
      const addresses = await links.addresses(link.index, signal);
      const routes = await links.routes(link.index, signal, 'all');
      return {
        mac: link.mac === undefined ? undefined : formatMac(link.mac),
        mtu: link.mtu,
        up: link.up,
        addresses: addresses.map((ip) => ({ address: formatIp(ip), prefix: ip.prefix })),
        routes: routes.map(({ destination, gateway }) => ({
          destination: formatCidr(destination),
          gateway: gateway && formatIp(gateway),
        })),
      };
    } finally {
      links?.close();
      namespace.close();
    }
  }

  /** May be called again. */
  close(): void {
    this.#host.close();
  }
}
