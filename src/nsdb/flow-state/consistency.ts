/** How many replicas of Cassandra must have answered. Apart from what loads its driver. */
export const CONSISTENCIES = ['one', 'localOne', 'two', 'three', 'quorum', 'localQuorum', 'eachQuorum', 'all'] as const;
export type Consistency = (typeof CONSISTENCIES)[number];
