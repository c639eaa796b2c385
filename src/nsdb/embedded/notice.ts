/** Tells what an operator should see. */
export type Notice = (level: 'info' | 'warn' | 'error', message: string, fields: object) => void;
