import { EventEmitter } from 'node:events';
import { Duplex } from 'node:stream';
import type { Events, VirtualProcess } from './events.js';

/** Milliseconds that a message takes: at least, and so many more at most. */
const LATENCY_MIN = 0.1;
const LATENCY_SPREAD = 1;
/** Of 100 messages so many are late, by so many milliseconds at most. */
const LATE_PERCENT = 2;
const LATE_MS = 60;

/**
 * `up`. `cut`: connections are reset, and refused. `silent`: nothing arrives, and nobody is told; what was sent arrives when the way is
 * up again, as TCP sends it again.
 */
export type WayState = 'up' | 'cut' | 'silent';

/** The way between a client and the server, named by the address that the client connects to. */
class Way {
  state: WayState = 'up';
  readonly sockets = new Set<VirtualSocket>();
  /** What arrives when the way is up again, and at whom. */
  held: { readonly owner: VirtualProcess; readonly arrive: () => void }[] = [];
}

/** The server's side of a connection, or the client's. */
class VirtualSocket extends Duplex {
  peer!: VirtualSocket;
  /** When the last message sent arrives: they keep their order. */
  lastArrival = 0;
  readonly remotePort = 0;

  constructor(
    private readonly network: VirtualNetwork,
    readonly way: Way,
    readonly owner: VirtualProcess,
    readonly remoteAddress: string,
  ) {
    super({ allowHalfOpen: false });
    way.sockets.add(this);
  }

  setNoDelay(): this {
    return this;
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.network.send(this, chunk);
    done();
  }

  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    this.network.send(this, Buffer.concat(chunks.map(({ chunk }) => chunk)));
    done();
  }

  override _final(done: () => void): void {
    this.network.send(this, 'end');
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.network.send(this, 'reset');
    this.way.sockets.delete(this);
    done(error);
  }
}

class VirtualListener extends EventEmitter {
  maxConnections = 0;

  constructor(
    private readonly network: VirtualNetwork,
    readonly owner: VirtualProcess,
  ) {
    super();
  }

  listen(_address: unknown, listening: () => void): void {
    this.network.listener = this;
    this.network.events.schedule(this.owner, 0, listening);
  }

  close(closed: () => void): void {
    if (this.network.listener === this) this.network.listener = undefined;
    this.network.events.schedule(this.owner, 0, closed);
  }
}

/** One server, and clients each of which has a way of its own to it. */
export class VirtualNetwork {
  listener: VirtualListener | undefined;
  private readonly ways = new Map<string, Way>();

  constructor(readonly events: Events) {}

  createListener(): VirtualListener {
    return new VirtualListener(this, this.events.running!);
  }

  /** Connects to the server by the way with this name. */
  connect(name: string): VirtualSocket {
    const way = this.way(name);
    const client = new VirtualSocket(this, way, this.events.running!, name);
    const arrive = () => {
      if (way.state === 'silent') {
        way.held.push({ owner: client.owner, arrive });
        return;
      }
      const { listener } = this;
      if (client.destroyed) return;
      if (way.state === 'cut' || listener === undefined || !listener.owner.isAlive) {
        client.destroy(Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED', syscall: 'connect' }));
        return;
      }
      const server = new VirtualSocket(this, way, listener.owner, name);
      server.peer = client;
      client.peer = server;
      this.events.schedule(listener.owner, 0, () => listener.emit('connection', server));
      this.events.schedule(client.owner, this.latency(), () => client.emit('connect'));
    };
    this.events.schedule(client.owner, this.latency(), arrive);
    return client;
  }

  setWay(name: string, state: WayState): void {
    const way = this.way(name);
    way.state = state;
    if (state === 'silent') return;
    if (state === 'cut') {
      way.held = [];
      for (const socket of [...way.sockets]) this.events.schedule(socket.owner, 0, () => socket.destroy());
    }
    for (const { owner, arrive } of way.held.splice(0)) this.events.schedule(owner, 0, arrive);
  }

  /** A message, the end of what there is to say, or that the connection is there no more. */
  send(from: VirtualSocket, message: Buffer | 'end' | 'reset'): void {
    const to = from.peer;
    if (to === undefined) return;
    const { events } = this;
    const arrive = () => {
      if (from.way.state === 'silent') from.way.held.push({ owner: to.owner, arrive });
      else if (!to.owner.isAlive || to.destroyed) return;
      else if (message === 'reset') to.destroy();
      else to.push(message === 'end' ? null : message);
    };
    events.trace(`${from.owner.name} to ${to.owner.name}: ${typeof message === 'string' ? message : message.length}`);
    from.lastArrival = Math.max(from.lastArrival, events.now + this.latency());
    // A message is not lost with who has sent it.
    events.scheduleAt(to.owner, from.lastArrival, arrive);
  }

  /** The system closes the connections of a process that is no more. */
  killed(process: VirtualProcess): void {
    for (const way of this.ways.values()) {
      for (const socket of [...way.sockets]) {
        if (socket.owner !== process) continue;
        way.sockets.delete(socket);
        this.send(socket, 'reset');
      }
    }
  }

  private way(name: string): Way {
    let way = this.ways.get(name);
    if (way === undefined) {
      way = new Way();
      this.ways.set(name, way);
    }
    return way;
  }

  private latency(): number {
    const { dice } = this.events;
    const latency = LATENCY_MIN + (dice.below(1000) / 1000) * LATENCY_SPREAD;
    return dice.chance(LATE_PERCENT) ? latency + dice.below(LATE_MS) : latency;
  }
}
