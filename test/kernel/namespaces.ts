import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import type { ExecutionContext } from 'ava';
import { Namespace } from '../../src/datapath/link/namespace.js';

/** A fresh network namespace for one test, gone when the test has ended. Needs root. */
export function newNamespace(t: ExecutionContext<unknown>): Namespace {
  const name = `mntest-${randomBytes(6).toString('hex')}`;
  execFileSync('ip', ['netns', 'add', name]);
  const namespace = Namespace.open(`/run/netns/${name}`);
  t.teardown(() => {
    namespace.close();
    execFileSync('ip', ['netns', 'delete', name]);
  });
  return namespace;
}

/** What `ip -n NAMESPACE ARGUMENTS` prints: another pair of eyes on what was done. */
export function ip(namespace: Namespace, ...ipArguments: string[]): string {
  const name = namespace.path.slice(namespace.path.lastIndexOf('/') + 1);
  return execFileSync('ip', ['-n', name, ...ipArguments], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}
