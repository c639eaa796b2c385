/** Versions of the CNI specification that are spoken; the same list as in cni/midonet.c. Oldest first. */
export const SUPPORTED_VERSIONS = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;

export type CniVersion = (typeof SUPPORTED_VERSIONS)[number];

export const NEWEST_VERSION: CniVersion = '1.1.0';

export function isSupportedVersion(text: unknown): text is CniVersion {
  return (SUPPORTED_VERSIONS as readonly unknown[]).includes(text);
}

/** Whether `version` is `other` or later. */
export function atLeast(version: CniVersion, other: CniVersion): boolean {
  return SUPPORTED_VERSIONS.indexOf(version) >= SUPPORTED_VERSIONS.indexOf(other);
}
