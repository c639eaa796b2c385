import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Tls } from '../../../src/nsdb/store.js';

/** What the server knows of a token. */
export interface KnownToken {
  readonly username: string;
  readonly groups?: readonly string[];
  /** Whom it was made for; undefined: the Kubernetes API server. */
  readonly audiences?: readonly string[];
}

/** As the API server of Kubernetes is configured when nothing is said. */
const OWN_AUDIENCE = 'https://kubernetes.default.svc';

/**
 * Answers TokenReview requests (authentication.k8s.io/v1) as the API server of Kubernetes does, for those who show the token
 * of an account that may ask.
 */
export class TokenReviewServer {
  readonly tokens = new Map<string, KnownToken>();
  /** How it behaves: as it should, never answers, or answers with a status that is an error. */
  behaviour: 'good' | 'silent' | 503 = 'good';
  /** A server of before audiences says nothing of them. */
  knowsAudiences = true;
  reviews = 0;

  private constructor(
    private readonly server: Server,
    private readonly tls: Required<Tls>,
    private readonly reviewerToken: string,
  ) {}

  static async listen(tls: Required<Tls>, reviewerToken: string): Promise<TokenReviewServer> {
    const server = createServer({ cert: tls.certificate, key: tls.key });
    const reviews = new TokenReviewServer(server, tls, reviewerToken);
    server.on('request', async (request, response) => {
      let text = '';
      for await (const part of request.setEncoding('utf8')) text += part;
      if (reviews.behaviour === 'silent') return;
      const [status, body] = reviews.answer(`${request.method} ${request.url}`, request.headers.authorization, text);
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return reviews;
  }

  /** The text of a kubeconfig file for this server. */
  kubeconfig(token = this.reviewerToken): string {
    const { port } = this.server.address() as AddressInfo;
    const authority = Buffer.from(this.tls.ca).toString('base64');
    return JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [
        {
          name: 'a',
          cluster: { server: `https://127.0.0.1:${port}`, 'certificate-authority-data': authority },
        },
      ],
      users: [{ name: 'a', user: { token } }],
      contexts: [{ name: 'a', context: { cluster: 'a', user: 'a' } }],
      'current-context': 'a',
    });
  }

  close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    this.server.closeAllConnections();
    return closed;
  }

  private answer(what: string, authorization: string | undefined, text: string): [status: number, body: object] {
    const failure = (code: number): [number, object] => [
      code,
      { kind: 'Status', apiVersion: 'v1', status: 'Failure', code },
    ];
    if (this.behaviour === 503) return failure(503);
    if (authorization !== `Bearer ${this.reviewerToken}`) return failure(401);
    if (what !== 'POST /apis/authentication.k8s.io/v1/tokenreviews') return failure(404);
    this.reviews++;
    const { apiVersion, kind, spec } = JSON.parse(text);
    if (apiVersion !== 'authentication.k8s.io/v1' || kind !== 'TokenReview') return failure(400);
    return [201, { apiVersion, kind, metadata: {}, spec, status: this.statusOf(spec) }];
  }

  private statusOf({ token, audiences = [OWN_AUDIENCE] }: { token: string; audiences?: readonly string[] }): object {
    const known = this.tokens.get(token);
    const refused = { authenticated: false, user: {}, error: `[invalid bearer token: ${token}]` };
    if (known === undefined) return refused;
    const { username, groups, audiences: own = [OWN_AUDIENCE] } = known;
    const user = { username, uid: 'u', groups };
    if (!this.knowsAudiences) return { authenticated: true, user };
    const common = own.filter((audience) => audiences.includes(audience));
    return common.length === 0 ? refused : { authenticated: true, user, audiences: common };
  }
}
