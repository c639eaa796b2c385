/**
 * The compliance suite that every datapath driver passes: `memory` in the same process, `ovs` in a real kernel.
 *
 * A driver's test file makes a {@link DatapathFactory} and calls {@link datapathCompliance} with it, which registers one
 * ava test per behaviour. Everything a test needs from the outside is a {@link Lab}; a factory makes a fresh one for each
 * test and the test closes it. Nothing may be left over after `close`.
 */
import type { Datapath } from '../../src/datapath/datapath.js';

/** The far end of an interface: what a machine plugged into the datapath's port would send and see. */
export interface Endpoint {
  /** Of the near end, which is the name to call {@link Datapath.addPort} with. */
  readonly name: string;
  /** Send a whole Ethernet frame (no frame check sequence) towards the datapath. */
  send(frame: Uint8Array): void | Promise<void>;
  /**
   * Every frame that came out so far, oldest first, whole, with VLAN tags in the bytes (a packet socket hands tags over
   * apart: put them back). Frames that the machine itself makes up need not be filtered out: tests look only at frames
   * from MAC addresses that start with 02:aa.
   */
  received(): readonly Uint8Array[];
}

/** One node: a datapath, not yet started, without flows and without ports but its local one (number 0). */
export interface Lab {
  readonly datapath: Datapath;
  /** IPv4 address of this node on the underlay, unsigned. Zero in a lab from `make`. */
  readonly underlay: number;
  /** Make the interface `name` (at most 15 characters, up, not yet a port) and return its far end. */
  connect(name: string): Promise<Endpoint>;
  /**
   * Make a tunnel interface in external (collect metadata) mode, up, not yet a port, and return its name. Only in a lab
   * from `makePair`.
   */
  tunnel(): Promise<string>;
  /** Another driver object on the same datapath, not started. The test closes it. */
  reopen(): Promise<Datapath>;
  /**
   * Resolves when all that was sent or submitted before has had its effect: flows hit, frames in `received()`, upcalls
   * delivered. Where that cannot be known it waits a while that is long enough.
   */
  settle(): Promise<void>;
  /** Close the driver and remove datapath, interfaces and namespaces. */
  close(): Promise<void>;
}

export interface DatapathFactory {
  make(): Promise<Lab>;
  /** Two nodes whose tunnels reach each other by their `underlay` addresses. */
  makePair(): Promise<readonly [Lab, Lab]>;
}
