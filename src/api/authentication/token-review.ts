import type {
  AuthenticationV1Api,
  ConfigurationOptions,
  ObservableMiddleware,
  RequestContext,
} from '@kubernetes/client-node';
import { AuthenticationUnavailableError } from './errors.js';
import type { KubernetesUser } from './roles.js';

export interface TokenReviewOptions {
  /** A kubeconfig file; undefined: the account that Kubernetes gives the pod this runs in. */
  readonly kubeconfig?: string;
  /** Whom tokens must be meant for; none: the Kubernetes API server itself. */
  readonly audiences: readonly string[];
  /** Milliseconds. */
  readonly timeout: number;
}

/** Questions under way at a time: who sends many tokens shall not send the Kubernetes API server as many. */
const MAX_REVIEWS = 50;

/** Asks the Kubernetes API server whose token it is (TokenReview of authentication.k8s.io/v1). */
export class TokenReviewer {
  private underWay = 0;

  private constructor(
    private readonly api: AuthenticationV1Api,
    private readonly endedBy: (signal: AbortSignal) => ConfigurationOptions,
    private readonly options: TokenReviewOptions,
  ) {}

  /** The library is large: it is loaded only here. */
  static async open(options: TokenReviewOptions): Promise<TokenReviewer> {
    const kubernetes = await import('@kubernetes/client-node');
    const config = new kubernetes.KubeConfig();
    if (options.kubeconfig === undefined) config.loadFromCluster();
    else config.loadFromFile(options.kubeconfig);
    // The only way to give a call a signal.
    const endedBy = (signal: AbortSignal): ConfigurationOptions => {
      const pre = async (context: RequestContext) => {
        context.setSignal(signal);
        return context;
      };
      const middleware: ObservableMiddleware = {
        pre: (context) => new kubernetes.Observable(pre(context)),
        post: (context) => new kubernetes.Observable(Promise.resolve(context)),
      };
      return { middleware: [middleware], middlewareMergeStrategy: 'append' };
    };
    return new TokenReviewer(config.makeApiClient(kubernetes.AuthenticationV1Api), endedBy, options);
  }

  /** Whether the token could be one of Kubernetes: they are JSON Web Tokens (RFC 7519), in compact form (RFC 7515 section 7.1). */
  static couldBe(token: string): boolean {
    return /^[\w-]+\.[\w-]+\.[\w-]+$/.test(token);
  }

  /**
   * Whose token it is; undefined for one that is not good, or meant for others.
   * @throws AuthenticationUnavailableError
   */
  async review(token: string): Promise<KubernetesUser | undefined> {
    if (this.underWay >= MAX_REVIEWS) {
      throw new AuthenticationUnavailableError('too many tokens are being looked at by the Kubernetes API server');
    }
    this.underWay++;
    try {
      return await this.ask(token);
    } finally {
      this.underWay--;
    }
  }

  private async ask(token: string): Promise<KubernetesUser | undefined> {
    const audiences = [...this.options.audiences];
    const signal = AbortSignal.timeout(this.options.timeout);
    const spec = audiences.length === 0 ? { token } : { token, audiences };
    let answer: Awaited<ReturnType<AuthenticationV1Api['createTokenReview']>>;
    try {
      answer = await this.api.createTokenReview(
        { body: { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenReview', spec } },
        this.endedBy(signal),
      );
    } catch (error) {
      throw new AuthenticationUnavailableError(
        `the Kubernetes API server cannot say whose token it is: ${why(error)}`,
        {
          cause: error,
        },
      );
    }
    const { status } = answer;
    const username = status?.user?.username;
    if (status?.authenticated !== true || username === undefined) return undefined;
    // A server that knows nothing of audiences says nothing of them, and has not looked at them.
    if (audiences.length > 0 && !audiences.some((audience) => status.audiences?.includes(audience))) return undefined;
    return { username, groups: status.user?.groups ?? [] };
  }
}

/** Without the answer's body and the request's headers: those are secrets. */
function why(error: unknown): string {
  if (error instanceof Error && 'code' in error && typeof error.code === 'number') return `status ${error.code}`;
  if (error instanceof Error && error.name === 'AbortError') return 'no answer in time';
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return 'no connection, or no answer that makes sense';
}
