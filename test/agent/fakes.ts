import type {
  ContainerInterfaces,
  InterfacePair,
  InterfaceState,
} from '../../src/agent/attachments/container-interfaces.js';
import { InterfaceNameTakenError } from '../../src/agent/attachments/container-interfaces.js';
import type { LocalPorts } from '../../src/agent/ports/local-ports.js';
import { NamespaceError } from '../../src/datapath/link/namespace.js';
import type { BridgePort } from '../../src/topology/types.js';

/** Throws where a test wants it: `step` is the name of the call. */
export type Fault = (step: string) => void;

/** A kernel with namespaces as names and interfaces as objects. It survives the agent. */
export class FakeInterfaces implements ContainerInterfaces {
  readonly pairs = new Map<string, InterfacePair>();
  readonly namespaces = new Map<string, string>();
  fault: Fault = () => {};
  calls: string[] = [];

  constructor(...paths: string[]) {
    for (const path of paths) this.namespaces.set(path, `identity of ${path}`);
  }

  namespaceIdentity(path: string): string {
    const identity = this.namespaces.get(path);
    if (identity === undefined) throw new NamespaceError(path, 'not found');
    return identity;
  }

  async create(pair: InterfacePair, signal?: AbortSignal): Promise<void> {
    this.calls.push(`create ${pair.hostName}`);
    this.fault('create');
    await new Promise((resolve) => setImmediate(resolve));
    signal?.throwIfAborted();
    this.namespaceIdentity(pair.namespacePath);
    for (const other of this.pairs.values()) {
      if (other.namespacePath === pair.namespacePath && other.name === pair.name) {
        throw new InterfaceNameTakenError(pair.name, pair.namespacePath);
      }
    }
    this.pairs.set(pair.hostName, pair);
    this.fault('created');
  }

  async remove(hostName: string): Promise<void> {
    this.calls.push(`remove ${hostName}`);
    this.fault('remove');
    this.pairs.delete(hostName);
  }

  async hostInterfaces(): Promise<Map<string, boolean>> {
    return new Map([['lo', true], ['eth0', true], ...[...this.pairs.keys()].map((name) => [name, true] as const)]);
  }

  async read(namespacePath: string, name: string): Promise<InterfaceState | undefined> {
    this.namespaceIdentity(namespacePath);
    for (const pair of this.pairs.values()) {
      if (pair.namespacePath === namespacePath && pair.name === name) return { ...pair, up: true };
    }
    return undefined;
  }
}

/** Remembers what is attached. */
export class FakeLocalPorts implements LocalPorts {
  readonly attached = new Map<string, { port: BridgePort; interfaceName: string }>();
  fault: Fault = () => {};

  async attach(port: BridgePort, interfaceName: string): Promise<void> {
    this.fault('attach');
    this.attached.set(port.id, { port, interfaceName });
    this.fault('attached');
  }

  async detach(portId: string): Promise<void> {
    this.fault('detach');
    this.attached.delete(portId);
  }
}
