import * as z from 'zod';
import type { Caller } from '../tenancy/caller.js';
import { NoRoleError } from './errors.js';

const tenantId = z.string().min(1, 'expected the name of a tenant').max(255);
const text = z.string().min(1).max(255);

/** A role, and the tenant that it is about unless it is about all: see {@link checkTenant}. */
export const grantSchema = z.strictObject({
  role: z.enum(['admin', 'tenant-admin', 'tenant-reader'], 'expected admin, tenant-admin or tenant-reader'),
  tenantId: tenantId.optional(),
});
export type Grant = z.output<typeof grantSchema>;

/** Who has a role: everybody with a certificate, or a Kubernetes account, in which all that is named here is so. */
export const roleRuleSchema = z
  .strictObject({
    /** Of the certificate's subject. */
    certificate: z.strictObject({ commonName: text.optional(), organization: text.optional() }).optional(),
    kubernetes: z.strictObject({ username: text.optional(), group: text.optional() }).optional(),
    ...grantSchema.shape,
  })
  .superRefine(checkTenant)
  .superRefine(({ certificate, kubernetes }, context) => {
    const named = [certificate, kubernetes].filter((who) => who !== undefined);
    if (named.length !== 1) {
      context.addIssue({ code: 'custom', message: 'expected either certificate or kubernetes' });
    } else if (Object.keys(named[0]).length === 0) {
      // Else it would be everybody.
      context.addIssue({ code: 'custom', message: 'expected to be told who has the role' });
    }
  });
export type RoleRule = z.output<typeof roleRuleSchema>;

/** The subject of a client's certificate; each attribute may be there several times. */
export interface CertificateSubject {
  readonly commonNames: readonly string[];
  readonly organizations: readonly string[];
}

/** A user as Kubernetes knows it. */
export interface KubernetesUser {
  readonly username: string;
  readonly groups: readonly string[];
}

/** By the first rule that is about the certificate. @throws NoRoleError */
export function callerOfCertificate(rules: readonly RoleRule[], subject: CertificateSubject): Caller {
  const name = `certificate:${[...subject.commonNames, ...subject.organizations].join(',')}`;
  const rule = rules.find(
    ({ certificate }) =>
      certificate !== undefined &&
      isAmong(certificate.commonName, subject.commonNames) &&
      isAmong(certificate.organization, subject.organizations),
  );
  return callerWith(name, rule);
}

/** By the first rule that is about the user. @throws NoRoleError */
export function callerOfKubernetes(rules: readonly RoleRule[], { username, groups }: KubernetesUser): Caller {
  const rule = rules.find(
    ({ kubernetes }) =>
      kubernetes !== undefined && isAmong(kubernetes.username, [username]) && isAmong(kubernetes.group, groups),
  );
  return callerWith(`kubernetes:${username}`, rule);
}

function isAmong(wanted: string | undefined, values: readonly string[]): boolean {
  return wanted === undefined || values.includes(wanted);
}

function callerWith(name: string, grant: Grant | undefined): Caller {
  if (grant === undefined) throw new NoRoleError(name);
  return { name, role: grant.role, tenantId: grant.tenantId };
}

/** Whether there is a tenant just where a role is about one. */
export function checkTenant({ role, tenantId }: Grant, context: z.RefinementCtx): void {
  if (role === 'admin' && tenantId !== undefined) {
    context.addIssue({ code: 'custom', path: ['tenantId'], message: 'expected none: an admin sees all tenants' });
  }
  if (role !== 'admin' && tenantId === undefined) {
    context.addIssue({ code: 'custom', path: ['tenantId'], message: 'expected the tenant that the role is about' });
  }
}
