import { MidonetError } from '../errors.js';

/** No address of the pool is free, or none that this host may take. */
export class PoolExhaustedError extends MidonetError {
  /** @param detail counts, for the reader of the message */
  constructor(
    readonly poolId: string,
    readonly cidr: string,
    detail: string,
  ) {
    super('MN_POOL_EXHAUSTED', `pool ${cidr} (${poolId}) has no free address: ${detail}`);
  }
}

/** The address asked for is in use, or in a block of another host. */
export class AddressInUseError extends MidonetError {
  constructor(
    readonly address: string,
    by: string,
  ) {
    super('MN_ADDRESS_IN_USE', `address ${address} is taken: ${by}`);
  }
}
