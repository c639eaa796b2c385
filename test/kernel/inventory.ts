import { readdir } from 'node:fs/promises';
import { relative } from 'node:path';
import { describeMatch } from '../../src/flow/describe.js';
import type { Store } from '../../src/nsdb/store.js';
import { type Lab, type LabNode, must } from './lab.js';

/** All of a lab that containers come and go in. Sorted lines of text, so that a comparison names what differs. */
export interface Inventory {
  /** Of the whole kernel. */
  readonly namespaces: readonly string[];
  /** Interfaces of the namespace the test runs in, and of each node. */
  readonly links: readonly string[];
  /** Interfaces attached to a datapath. */
  readonly ports: readonly string[];
  readonly flows: readonly string[];
  /** Addresses in use, as the agents count them. */
  readonly addresses: number;
  /** In the state folders. */
  readonly files: readonly string[];
  /** Paths of the NSDB, without the empty folders by which it splits large ones. */
  readonly nsdb: readonly string[];
}

const SHARD = /\/(ports|macs|ips)\/[0-9a-f]{2}$/;

/** The agents must run. */
export async function takeInventory(lab: Lab): Promise<Inventory> {
  const { nodes } = lab;
  const each = async (list: (node: LabNode) => Promise<readonly string[]>) =>
    (await Promise.all(nodes.map(async (node) => (await list(node)).map((line) => `${node.name} ${line}`)))).flat();
  const used = await Promise.all(nodes.map((node) => node.metric('midonet_pool_addresses_used')));
  return {
    namespaces: (await readdir('/run/netns')).sort(),
    links: [...(await linksHere()), ...(await each((node) => node.links()))],
    ports: await each((node) => node.ports()),
    flows: await each(async (node) =>
      (await node.flows()).map(
        ({ key, mask, actions }) =>
          `${describeMatch(key, mask)} -> ${actions.map(({ type }) => type).join(', ') || 'drop'}`,
      ),
    ),
    addresses: used.reduce((sum, count) => sum + count, 0),
    files: await each((node) => filesIn(node.stateFolder)),
    nsdb: (await tree(lab.repository().store)).filter((path) => !SHARD.test(path)),
  };
}

async function linksHere(): Promise<string[]> {
  const links = JSON.parse(await must('ip', '-json', 'link')) as { ifname: string }[];
  return links.map((link) => link.ifname).sort();
}

async function filesIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, `${entry.parentPath}/${entry.name}`))
    .sort();
}

/** Every path of the NSDB, sorted. */
async function tree(store: Store): Promise<string[]> {
  await store.sync('/');
  const found: string[] = [];
  const visit = async (path: string): Promise<void> => {
    // One that is deleted just now has no children.
    const names = (await store.children(path === '' ? '/' : path)) ?? [];
    await Promise.all(
      names.map((name) => {
        found.push(`${path}/${name}`);
        return visit(`${path}/${name}`);
      }),
    );
  };
  await visit('');
  return found.sort();
}
