import { isDeepStrictEqual } from 'node:util';
import type { Logger } from 'pino';
import type { ApiServer, ServerTls } from '../api/server.js';
import { readServerTls } from './api-settings.js';
import type { Config } from './config.js';

const LOOK_MS = 60_000;

/** Has new connections shown the certificate that is in the files by then. One that cannot be used is left alone. */
export class CertificateWatch {
  private readonly timer: NodeJS.Timeout;
  /** Why the files cannot be used, when they cannot. */
  private fault: string | undefined;

  constructor(
    private readonly files: Config['api']['tls'],
    private current: ServerTls | undefined,
    private readonly server: Pick<ApiServer, 'setTls'>,
    private readonly log: Pick<Logger, 'info' | 'warn'>,
    everyMs = LOOK_MS,
  ) {
    this.timer = setInterval(() => this.look(), everyMs);
  }

  close(): void {
    clearInterval(this.timer);
  }

  private look(): void {
    try {
      const tls = readServerTls(this.files);
      this.fault = undefined;
      if (tls === undefined || isDeepStrictEqual(tls, this.current)) return;
      this.server.setTls(tls);
      this.current = tls;
      this.log.info({ certificate: this.files?.certificate }, 'the certificate of the REST API was renewed');
    } catch (error) {
      const fault = error instanceof Error ? error.message : String(error);
      if (fault !== this.fault)
        this.log.warn({ error: fault }, 'the renewed certificate of the REST API cannot be used');
      this.fault = fault;
    }
  }
}
