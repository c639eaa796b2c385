import { type ClientFlags, withClient } from './objects.js';
import { formOf, printAs } from './output.js';
import type { Terminal } from './terminal.js';

export async function listTenants(flags: ClientFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client) => {
    const { body } = await client.request('GET', '/v1/tenants', { signal: terminal.signal });
    const tenants = (body as { items: { id: string }[] }).items;
    await printAs(terminal, formOf(flags), tenants, () => tenants.map(({ id }) => id).join('\n'));
  });
}
