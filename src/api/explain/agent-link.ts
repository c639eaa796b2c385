import { type IncomingMessage, request } from 'node:http';
import { json, text } from 'node:stream/consumers';
import { connect } from 'node:tls';
import type * as z from 'zod';
import { CONTROL_IDENTITY, CONTROL_TLS, controlFaultSchema } from '../../agent/control/protocol.js';
import { type ErrorCode, MidonetError } from '../../errors.js';
import { type ControlAddress, hostAliveSchema } from '../../nsdb/host-alive.js';
import { decodeJson } from '../../nsdb/json.js';
import { hostAlivePath } from '../../nsdb/layout.js';
import type { Store } from '../../nsdb/store.js';

/** The agent of a host cannot be asked now. */
export class AgentUnavailableError extends MidonetError {
  constructor(
    readonly hostId: string,
    reason: string,
    options?: ErrorOptions,
  ) {
    super('MN_AGENT_UNAVAILABLE', `host ${hostId}: ${reason}`, options);
  }
}

/** The agent has refused a request, for the reason that the code names. */
export class AgentRefusedError extends MidonetError {
  constructor(
    code: ErrorCode,
    message: string,
    /** At fault, where that is known. */
    readonly field?: string,
    readonly value?: unknown,
  ) {
    super(code, message);
  }
}

const CONNECT_TIMEOUT_MS = 3000;

/** Asks the agents of hosts, at the control endpoint that each has told the NSDB of. */
export class AgentLink {
  constructor(private readonly store: Store) {}

  /**
   * Where the agent of a host can be asked.
   * @throws AgentUnavailableError
   */
  async agentOf(hostId: string, signal?: AbortSignal): Promise<ControlAddress> {
    const path = hostAlivePath(hostId);
    const node = await this.store.get(path, { signal });
    if (node === undefined) {
      throw new AgentUnavailableError(hostId, 'no agent runs there; start midonet agent on it');
    }
    const { name, control } = decodeJson(hostAliveSchema, node.data, path);
    if (control === undefined) {
      throw new AgentUnavailableError(
        hostId,
        `its agent, of ${name}, cannot be asked; its log says why it does not listen at config.control`,
      );
    }
    return control;
  }

  /**
   * A page of an agent: an object, or text where the page is text.
   * @param path with the query
   * @throws AgentUnavailableError, AgentRefusedError
   */
  async get(hostId: string, path: string, signal?: AbortSignal): Promise<unknown> {
    const response = await this.open(hostId, path, signal);
    try {
      return await (isJson(response) ? json(response) : text(response));
    } catch (error) {
      signal?.throwIfAborted();
      throw new AgentUnavailableError(hostId, `its agent has ended the answer early: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }

  /**
   * What a page of an agent says.
   * @throws AgentUnavailableError, also for an answer in another form; AgentRefusedError
   */
  async ask<T extends z.ZodType>(hostId: string, path: string, schema: T, signal?: AbortSignal): Promise<z.output<T>> {
    const answer = schema.safeParse(await this.get(hostId, path, signal));
    if (answer.success) return answer.data;
    throw new AgentUnavailableError(hostId, 'its agent answers in another form; run one version of midonet everywhere');
  }

  /**
   * A page of an agent as it comes, however long that takes. Whoever asks reads it, or destroys it; the end of the signal does so,
   * too.
   * @throws AgentUnavailableError, AgentRefusedError
   */
  async open(hostId: string, path: string, signal?: AbortSignal): Promise<IncomingMessage> {
    const address = await this.agentOf(hostId, signal);
    const response = await this.request(hostId, address, path, signal);
    if (response.statusCode === 200) return response;
    const fault = controlFaultSchema.safeParse(await json(response).catch(() => undefined));
    signal?.throwIfAborted();
    if (!fault.success) throw new AgentUnavailableError(hostId, 'its agent refuses to answer, and does not say why');
    const { code, message, field, value } = fault.data;
    throw new AgentRefusedError(code, message, field, value);
  }

  private request(
    hostId: string,
    { host, port, key }: ControlAddress,
    path: string,
    signal?: AbortSignal,
  ): Promise<IncomingMessage> {
    const socket = connect({
      ...CONTROL_TLS,
      host,
      port,
      pskCallback: () => ({ psk: Buffer.from(key, 'hex'), identity: CONTROL_IDENTITY }),
      // The key says who it is.
      checkServerIdentity: () => undefined,
    });
    const patience = setTimeout(
      () => socket.destroy(new Error(`no connection within ${CONNECT_TIMEOUT_MS} ms`)),
      CONNECT_TIMEOUT_MS,
    );
    socket.once('secureConnect', () => clearTimeout(patience));
    socket.once('close', () => clearTimeout(patience));
    return new Promise((resolve, reject) => {
      // A connection each: keys differ between agents, and between runs of one.
      const outgoing = request({ host, port, path, signal, createConnection: () => socket }, resolve);
      outgoing.on('error', (error) => {
        if (signal?.aborted) return reject(signal.reason);
        const where = `${host.includes(':') ? `[${host}]` : host}:${port}`;
        const reason = `its agent does not answer at ${where} (${error.message}); see that it runs and that this port can be reached`;
        reject(new AgentUnavailableError(hostId, reason, { cause: error }));
      });
      outgoing.end();
    });
  }
}

function isJson({ headers }: IncomingMessage): boolean {
  return headers['content-type']?.startsWith('application/json') ?? false;
}
