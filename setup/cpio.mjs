// A cpio archive in the "newc" format that the kernel unpacks as initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).

/**
 * @typedef {object} Entry
 * @property {string} name path without a leading slash; folders come before what is in them
 * @property {number} mode type and permissions, as in st_mode
 * @property {Buffer} data
 * @property {[number, number]} [device] major and minor of a device node
 */

/**
 * The archive of these entries, all owned by root.
 * @param {Entry[]} entries
 */
export function cpioArchive(entries) {
  const parts = [];
  let inode = 1;
  for (const entry of [...entries, { name: 'TRAILER!!!', mode: 0, data: Buffer.alloc(0) }]) {
    const [major, minor] = ('device' in entry && entry.device) || [0, 0];
    const name = Buffer.from(`${entry.name}\0`);
    const fields = [inode++, entry.mode, 0, 0, 1, 0, entry.data.length, 0, 0, major, minor, name.length, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    parts.push(Buffer.from(header), name, padding(header.length + name.length), entry.data, padding(entry.data.length));
  }
  return Buffer.concat(parts);
}

function padding(/** @type {number} */ length) {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
