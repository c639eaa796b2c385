import { join } from 'node:path';
import type { Logger } from 'pino';
import { CniServer, refuseIfInUse } from '../../cni/server.js';
import { CniVerbs } from '../../cni/verbs.js';
import { Agent } from '../agent/agent.js';
import { Attachments } from '../agent/attachments/attachments.js';
import { VethInterfaces } from '../agent/attachments/container-interfaces.js';
import { Networks } from '../agent/attachments/networks.js';
import type { RecentWarnings } from '../agent/control/recent-warnings.js';
import { UdpStateTransport } from '../agent/flow-state/transport.js';
import { hostId } from '../agent/host/host-id.js';
import { KernelTunnelDevices } from '../agent/underlay/kernel-tunnel-devices.js';
import type { DatapathFeatures } from '../datapath/datapath.js';
import type { Link } from '../datapath/link/link.js';
import { Links } from '../datapath/link/links.js';
import { LinkMonitor } from '../datapath/link/monitor.js';
import { OvsDatapath } from '../datapath/ovs/ovs-datapath.js';
import { FolderLock } from '../folder-lock.js';
import { Ipam } from '../ipam/ipam.js';
import { ZookeeperStore } from '../nsdb/zookeeper/client.js';
import type { Config } from './config.js';
import { lockDatapath } from './datapath-lock.js';
import { DatapathWatch } from './datapath-watch.js';
import { namingAddress, requireFreeAddress } from './listen-address.js';
import { nsdbConnection } from './nsdb-connection.js';
import { Closers, type Service } from './service.js';

/** Run the agent of this host, on the kernel's datapath. */
export async function runAgent(
  config: Config,
  log: Logger,
  signal: AbortSignal,
  warnings?: RecentWarnings,
): Promise<Service> {
  const closers = new Closers(log);
  try {
    // Before anything is touched that another agent may be working with.
    const datapathLock = await lockDatapath(config.datapath.name);
    closers.add(() => datapathLock.release());
    await refuseIfInUse(config.cni.socket);
    await requireFreeAddress('config.http', config.http.host, config.http.port);
    const id = await hostId(config.stateFolder, config.host.id);
    const lock = await FolderLock.acquire(config.stateFolder);
    closers.add(() => lock.release());
    const store = new ZookeeperStore({
      ...nsdbConnection(config.nsdb),
      onNotice: (level, message, fields) => log[level](fields, `NSDB client: ${message}`),
    });
    closers.add(() => store.close());
    const datapath = await OvsDatapath.open(config.datapath.name, { signal });
    closers.add(() => datapath.close());
    tellFeatures(datapath.features, log);
    const links = new Links();
    closers.add(() => links.close());
    const agent = await Agent.start(
      {
        hostId: id,
        hostName: config.host.name,
        stateFolder: config.stateFolder,
        store,
        datapath,
        devices: new KernelTunnelDevices(links, datapath, config.tunnels.vxlanPort),
        tunnelZones: config.tunnels.zones,
        flows: config.flows,
        macsPerPort: config.learning.macsPerPort,
        openStateTransport: (receive) => new UdpStateTransport(config.flowState.port, receive, log),
        log,
      },
      signal,
    );
    closers.add(() => agent.close());
    const linkChanged = (link: Link) => agent.interfaceChanged(link.name);
    const monitor = await LinkMonitor.start({
      appeared: linkChanged,
      changed: linkChanged,
      vanished: linkChanged,
      failed: (error) => log.error({ error: (error as Error).message }, 'could not read the interfaces of this host'),
    });
    closers.add(() => monitor.close());
    const warn = (message: string, error?: unknown) =>
      log.warn({ error: error instanceof Error ? error.message : error }, message);
    const ipam = await Ipam.open({ store, hostId: id, folder: join(config.stateFolder, 'blocks'), warn });
    closers.add(() => ipam.close());
    const { repository } = agent;
    const networks = await Networks.open({ repository, folder: join(config.stateFolder, 'networks'), warn });
    closers.add(() => networks.close());
    // Also those without containers here: their blocks are given back.
    for (const network of networks.list()) for (const pool of network.pools) ipam.pool(pool);
    const interfaces = new VethInterfaces();
    closers.add(() => interfaces.close());
    const attachments = await Attachments.open({
      hostId: id,
      folder: join(config.stateFolder, 'attachments'),
      ipam,
      interfaces,
      localPorts: agent.bindings,
      repository,
      datapath,
      warn,
    });
    closers.add(() => attachments.close());
    const recovery = await attachments.recover(signal);
    if (Object.values(recovery).some((count) => count > 0))
      log.info(recovery, 'took up the attachments of the last run');
    agent.portsKnown();
    let failedCalls = 0;
    const verbs = new CniVerbs({
      attachments,
      networks,
      ipam,
      mtu: () => agent.tunnels.mtu,
      storeConnected: () => store.state === 'connected',
      fault: (ending) => agent.fault(ending),
      failed: ({ environment }, error) => {
        failedCalls += 1;
        log.warn(
          {
            command: environment.get('CNI_COMMAND'),
            container: environment.get('CNI_CONTAINERID'),
            error: error.message,
          },
          'CNI call failed',
        );
      },
    });
    const cni = await CniServer.listen({ path: config.cni.socket, handler: verbs.handle, warn });
    closers.add(() => cni.close());
    // Last, as the library it needs is large: containers do not wait for it.
    const { agentMetrics, listenHttp } = await import('../agent/http/server.js');
    const registry = agentMetrics({
      agent,
      pools: () => ipam.usage(),
      cni: () => {
        const { calls, ...dropped } = cni.counters;
        return { calls, failed: failedCalls, dropped };
      },
      store,
    });
    const http = await listenHttp({ ...config.http, agent, registry }).catch(
      namingAddress('config.http', `${config.http.host}:${config.http.port}`),
    );
    closers.add(() => http.close());
    const { startAgentControl } = await import('../agent/control/agent-control.js');
    const { host = config.tunnels.zones[0]?.address ?? '127.0.0.1', port } = config.control;
    const control = startAgentControl({ agent, host, port, registry, warnings, log });
    closers.add(() => control.close());
    const watch = new DatapathWatch(datapath, config.datapath.name);
    closers.add(() => watch.close());
    log.info({ host: id, name: config.host.name, http: http.port }, 'the agent runs');
    return { failed: watch.failed, close: () => closers.close() };
  } catch (error) {
    await closers.close();
    throw error;
  }
}

/** Without zones, connections of different ports of this host that look alike are taken for one. */
function tellFeatures(features: DatapathFeatures, log: Logger): void {
  const { conntrack, zones, nat } = features;
  const lacking = Object.entries({ conntrack, zones, nat }).flatMap(([name, there]) => (there ? [] : [name]));
  if (lacking.length === 0) log.info(features, 'the kernel has what connections need');
  else log.warn({ ...features, lacking }, 'the kernel lacks what connections need: see docs/datapath.md');
}
