import { chmod, lstat, mkdir, rename, unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { ClosedError, MidonetError, TimeoutError } from '../src/errors.js';
import { type CniReply, type CniRequest, encodeReply, FrameError, RequestReader } from './frame.js';

/** How long a request may take to arrive. The program has read its input before it connects. */
const ARRIVAL_MS = 10_000;
const MAX_CONNECTIONS = 1024;

/** Answers a call. `signal` ends it when the program has gone away or the agent stops. Must not reject. */
export type CniHandler = (request: CniRequest, signal: AbortSignal) => Promise<CniReply>;

export interface CniServerOptions {
  /** Path of the unix socket. */
  readonly path: string;
  readonly handler: CniHandler;
  readonly warn: (message: string, error?: unknown) => void;
  /** See {@link ARRIVAL_MS}. */
  readonly arrivalMs?: number;
}

/** What happened since the start. */
export interface CniServerCounters {
  calls: number;
  /** Connections that brought no request that can be read. */
  garbage: number;
  /** Connections that brought no request in time. */
  tooSlow: number;
  /** Calls whose program was gone before the reply. */
  abandoned: number;
  /** Connections refused because there were too many. */
  refused: number;
}

/** Another process answers at the path. */
export class SocketInUseError extends MidonetError {
  constructor(path: string, detail: string) {
    super('MN_ALREADY_EXISTS', `${path}: ${detail}`);
  }
}

/**
 * Listens for the CNI program on a unix socket that only root may use. A socket left by an agent that died is replaced, so
 * that there is no moment without one.
 */
export class CniServer {
  readonly counters: CniServerCounters = { calls: 0, garbage: 0, tooSlow: 0, abandoned: 0, refused: 0 };
  readonly #options: CniServerOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #calls = new Set<Promise<void>>();
  readonly #ends = new Set<AbortController>();
  #inode: bigint | undefined;

  private constructor(options: CniServerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#accept(socket));
    this.#server.maxConnections = MAX_CONNECTIONS;
    this.#server.on('drop', () => {
      this.counters.refused += 1;
      options.warn(`CNI call refused: there are ${MAX_CONNECTIONS} already`);
    });
    this.#server.on('error', (error) => options.warn('CNI socket', error));
  }

  /**
   * @throws SocketInUseError if an agent listens there, or something that is not a socket is in the way
   */
  static async listen(options: CniServerOptions): Promise<CniServer> {
    const { path } = options;
    await mkdir(dirname(path), { recursive: true, mode: 0o755 });
    await refuseIfInUse(path);
    const server = new CniServer(options);
    const temporary = `${path}.${process.pid}`;
    await unlink(temporary).catch(ignoreMissing);
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', reject);
      server.#server.listen(temporary, () => {
        server.#server.off('error', reject);
        resolve();
      });
    });
    try {
      await chmod(temporary, 0o600);
      server.#inode = (await lstat(temporary, { bigint: true })).ino;
      await rename(temporary, path);
    } catch (error) {
      await server.close();
      throw error;
    }
    return server;
  }

  #accept(socket: Socket): void {
    const { warn, arrivalMs = ARRIVAL_MS } = this.#options;
    this.#sockets.add(socket);
    const end = new AbortController();
    this.#ends.add(end);
    const reader = new RequestReader();
    let request: CniRequest | undefined;
    const reject = (error: MidonetError) => {
      warn(`CNI connection closed: ${error.message}`);
      socket.destroy();
    };
    const timer = setTimeout(() => {
      this.counters.tooSlow += 1;
      reject(new TimeoutError('CNI request', arrivalMs));
    }, arrivalMs);
    socket.on('error', () => socket.destroy());
    socket.on('end', () => {
      if (request === undefined && reader.started) {
        this.counters.garbage += 1;
        reject(new FrameError('ended in the middle'));
      }
    });
    socket.on('close', () => {
      clearTimeout(timer);
      this.#sockets.delete(socket);
      this.#ends.delete(end);
      end.abort(new ClosedError('the connection of the CNI program'));
    });
    socket.on('data', (chunk: Buffer) => {
      if (socket.destroyed) return;
      try {
        if (request !== undefined) throw new FrameError('bytes behind the request');
        request = reader.push(chunk);
      } catch (error) {
        this.counters.garbage += 1;
        reject(error as FrameError);
        return;
      }
      if (request === undefined) return;
      clearTimeout(timer);
      const call = this.#answer(socket, request, end.signal);
      this.#calls.add(call);
      void call.finally(() => this.#calls.delete(call));
    });
  }

  async #answer(socket: Socket, request: CniRequest, signal: AbortSignal): Promise<void> {
    this.counters.calls += 1;
    let bytes: Buffer;
    try {
      const reply = await this.#options.handler(request, signal);
      bytes = encodeReply(reply);
    } catch (error) {
      this.#options.warn('CNI call failed without an answer', error);
      socket.destroy();
      return;
    }
    if (socket.destroyed) {
      this.counters.abandoned += 1;
      return;
    }
    await new Promise<void>((resolve) => {
      socket.once('close', resolve);
      socket.end(bytes);
    });
  }

  /** Stop listening, end the calls under way (each undoes what it has begun and still answers), remove the socket. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const end of this.#ends) end.abort(new ClosedError('the agent'));
    const { path } = this.#options;
    const found = await lstat(path, { bigint: true }).catch(ignoreMissing);
    if (found !== undefined && found.ino === this.#inode) await unlink(path).catch(ignoreMissing);
    const grace = setTimeout(() => this.#destroyAll(), 2000);
    await Promise.all(this.#calls);
    clearTimeout(grace);
    this.#destroyAll();
    await closed;
  }

  #destroyAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** @throws SocketInUseError if somebody listens at `path`, or there is something else than a socket */
export async function refuseIfInUse(path: string): Promise<void> {
  const found = await lstat(path).catch(ignoreMissing);
  if (found === undefined) return;
  if (!found.isSocket()) throw new SocketInUseError(path, 'there is something else than a socket');
  const answered = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.on('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.on('error', () => resolve(false));
  });
  if (answered) throw new SocketInUseError(path, 'another process listens there');
}

function ignoreMissing(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  return undefined;
}
