// @tus/server over a file store, on one loopback port.
// Usage: node tus-node.mjs MODULES DIR PORT   (MODULES: the folder that holds node_modules)
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [modules, directory, port] = process.argv.slice(2);
const require = createRequire(pathToFileURL(path.join(modules, "package.json")));
const load = (name) => import(pathToFileURL(require.resolve(name)));

const { Server } = await load("@tus/server");
const { FileStore } = await load("@tus/file-store");

const server = new Server({ path: "/files", datastore: new FileStore({ directory }) });
server.listen({ host: "127.0.0.1", port: Number(port) }, () => {
  console.log(`listening on http://127.0.0.1:${port}/files/`);
});
