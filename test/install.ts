/** `node test/install.ts [name …]`: brings the test servers, or those named, without running a test. */
import { installServers } from './servers/install.ts';
import { howToGet, isInstalled, SERVER_NAMES } from './servers/installed.ts';

const wanted = process.argv.length > 2 ? process.argv.slice(2) : SERVER_NAMES;
const names = SERVER_NAMES.filter((name) => wanted.includes(name));
await installServers(names, (line) => console.log(`test servers: ${line}`));
const missing = names.filter((name) => !isInstalled(name));
for (const name of missing) console.log(`test servers: ${name} is missing: ${howToGet(name)}`);
process.exitCode = missing.length > 0 ? 9 : 0;
