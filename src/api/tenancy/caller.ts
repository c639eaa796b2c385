/**
 * `admin` sees and changes everything. `tenant-admin` sees and changes what belongs to one tenant, `tenant-reader` sees it. What
 * belongs to another tenant does not exist for either.
 */
export type Role = 'admin' | 'tenant-admin' | 'tenant-reader';

/** Who makes a request. */
export interface Caller {
  /** As the audit log names it. */
  readonly name: string;
  readonly role: Role;
  /** Undefined for `admin`. */
  readonly tenantId: string | undefined;
}

/** Who asks where nobody has to say who they are: on loopback, without authentication. */
export const LOCAL_ADMIN: Caller = { name: 'local', role: 'admin', tenantId: undefined };

/** What limits are counted by: names alone are not one of a kind, as tokens of two tenants may have the same. */
export function callerKey({ role, tenantId, name }: Caller): string {
  return JSON.stringify([role, tenantId, name]);
}
