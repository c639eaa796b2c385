import type { MidonetClient } from '../../api/client/client.js';
import type { Caller } from '../../api/tenancy/caller.js';
import { formOf, printAs } from '../terminal/output.js';
import { plain } from '../terminal/printable.js';
import type { Terminal } from '../terminal/terminal.js';
import { type ClientFlags, withClient } from './objects.js';

export async function listTenants(flags: ClientFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client) => {
    const tenants: { id: string }[] = [];
    for await (const id of client.tenants(terminal.signal)) tenants.push({ id });
    await printAs(terminal, formOf(flags), tenants, () => tenants.map(({ id }) => plain(id)).join('\n'));
  });
}

/** Who the API takes this client for. */
export async function callerOf(client: MidonetClient, signal: AbortSignal): Promise<Caller> {
  const { body } = await client.request('GET', '/v1', { signal });
  return (body as { caller: Caller }).caller;
}

export async function whoAmI(flags: ClientFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client) => {
    const caller = await callerOf(client, terminal.signal);
    const { name, role, tenantId } = caller;
    await printAs(
      terminal,
      formOf(flags),
      caller,
      () => `${name}: ${role}${tenantId === undefined ? '' : ` of ${tenantId}`}`,
    );
  });
}
