import { hostAlivePath } from '../../nsdb/layout.js';
import type { Store, Watch } from '../../nsdb/store.js';

/** For so long an agent may be away, to be started again say: the kernel goes on forwarding for it. */
const GONE_AFTER_MS = 10_000;

interface WatchedHost {
  readonly watch: Watch;
  readonly listeners: Set<(isGone: boolean) => void>;
  /** Since when nobody has said that its agent runs. */
  missingSince: number | undefined;
  isGone: boolean;
}

/** Which other hosts have had no agent for a while, so far as the NSDB knows: they may be switched off. */
export class HostLiveness {
  private readonly hosts = new Map<string, WatchedHost>();

  constructor(
    private readonly store: Store,
    /** Milliseconds. */
    private readonly clock: () => number,
  ) {}

  isGone(hostId: string): boolean {
    return this.hosts.get(hostId)?.isGone ?? false;
  }

  /** Calls the listener whenever the host is gone, or is back. */
  watch(hostId: string, listener: (isGone: boolean) => void): Watch {
    let host = this.hosts.get(hostId);
    if (host === undefined) {
      host = this.start(hostId);
      this.hosts.set(hostId, host);
    }
    const { watch, listeners } = host;
    // Two who watch may give the same function.
    const own = (isGone: boolean) => listener(isGone);
    listeners.add(own);
    const close = () => {
      listeners.delete(own);
      if (listeners.size > 0) return;
      watch.close();
      this.hosts.delete(hostId);
    };
    return { ready: watch.ready, close };
  }

  /** To be called once a second. */
  tick(): void {
    const horizon = this.clock() - GONE_AFTER_MS;
    for (const host of this.hosts.values()) {
      if (host.missingSince !== undefined && host.missingSince <= horizon) tell(host, true);
    }
  }

  private start(hostId: string): WatchedHost {
    const host: WatchedHost = {
      watch: this.store.watchData(hostAlivePath(hostId), (node) => {
        host.missingSince = node === undefined ? this.clock() : undefined;
        if (node !== undefined) tell(host, false);
      }),
      listeners: new Set(),
      missingSince: undefined,
      isGone: false,
    };
    return host;
  }
}

function tell(host: WatchedHost, isGone: boolean): void {
  if (host.isGone === isGone) return;
  host.isGone = isGone;
  for (const listener of host.listeners) listener(isGone);
}
