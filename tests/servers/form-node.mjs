// Takes forms (multipart/form-data) as a browser's server would: with busboy, streaming, files to disk.
// Usage: node form-node.mjs MODULES DIR PORT   (MODULES: the folder that holds node_modules)
//
// DIR/begun.json has a line for each POST that came (its headers), DIR/taken.json one for each that came whole
// and was answered 201: fields in order, files with their names and where their bytes are, bytes of the body.
import { createRequire } from "node:module";
import { appendFileSync, createWriteStream, mkdirSync, rmSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { finished } from "node:stream/promises";

const [modules, directory, port] = process.argv.slice(2);
const require = createRequire(path.join(modules, "package.json"));
const busboy = require("busboy");

const files = path.join(directory, "files");
mkdirSync(files, { recursive: true });
let count = 0;

const record = (name, value) => appendFileSync(path.join(directory, name), `${JSON.stringify(value)}\n`);

function take(request, response) {
  const form = { number: count++, fields: [], files: [], body: 0 };
  const written = [];
  record("begun.json", { number: form.number, method: request.method, headers: request.headers });
  const refuse = (status, why) => {
    for (const { path } of form.files) rmSync(path, { force: true });
    if (!response.headersSent) response.writeHead(status, { "content-type": "text/plain" }).end(String(why));
  };
  if (request.method !== "POST") return refuse(405, "POST a form");
  let parser;
  try {
    parser = busboy({ headers: request.headers, defParamCharset: "utf8" });
  } catch (error) {
    return refuse(400, error);
  }
  parser.on("field", (name, value) => form.fields.push([name, value]));
  parser.on("file", (field, stream, info) => {
    const to = path.join(files, `${form.number}-${form.files.length}`);
    form.files.push({ field, name: info.filename, type: info.mimeType, path: to });
    const sink = createWriteStream(to);
    written.push(finished(sink).catch((error) => error));
    stream.on("error", () => sink.destroy());
    stream.pipe(sink);
  });
  parser.on("error", (error) => refuse(400, error));
  parser.on("close", async () => {
    await Promise.all(written);
    if (response.headersSent || !request.complete) return;
    record("taken.json", form);
    response.writeHead(201, { "content-type": "application/json" }).end(JSON.stringify({ number: form.number }));
  });
  request.on("data", (block) => (form.body += block.length));
  request.on("close", () => {
    if (!request.complete) refuse(400, "the form broke off");
  });
  request.pipe(parser);
}

http.createServer(take).listen({ host: "127.0.0.1", port: Number(port) }, () => {
  console.log(`listening on http://127.0.0.1:${port}/`);
});
