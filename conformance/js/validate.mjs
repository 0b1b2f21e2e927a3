// Puts recorded exchanges before Microsoft's validator of traffic (oav) and writes what it says about them as JSON into a file: the
// validator has stdout for itself.
//
//	node validate.mjs SPECS TRAFFIC REPORT
//
// A client that speaks another api-version than the specs at hand is read as if it spoke theirs: the simulator answers every version
// in one shape. An exchange that no spec describes is reported as such, and is for the caller to judge.
import fs from "node:fs";
import path from "node:path";
import { LiveValidator } from "oav/dist/lib/liveValidation/liveValidator.js";

const [specs, traffic, out] = process.argv.slice(2);

function files(dir) {
  return fs.readdirSync(dir, { withFileTypes: true }).flatMap((e) => {
    const full = path.join(dir, e.name);
    if (e.isDirectory()) return e.name === "examples" || e.name.startsWith("common") ? [] : files(full);
    return e.name.endsWith(".json") ? [full] : [];
  });
}

// The versions of the specs, by type ("microsoft.compute/virtualmachinescalesets/networkinterfaces").
const versions = {};
for (const f of files(specs)) {
  const spec = JSON.parse(fs.readFileSync(f, "utf8"));
  for (const p of Object.keys(spec.paths ?? {})) (versions[typeOf(p)] ??= new Set()).add(spec.info.version);
}

// typeOf is the provider and the types of a path; "" for what ARM answers by itself.
function typeOf(p) {
  const m = /.*\/providers\/([^/]+)(\/.*)?$/i.exec(p);
  return m ? [m[1], ...(m[2] ?? "").split("/").slice(1).filter((_, i) => i % 2 === 0)].join("/").toLowerCase() : "";
}

function asSpecified(url) {
  const u = new URL("https://management.azure.com" + url);
  const asked = u.searchParams.get("api-version");
  let type = typeOf(u.pathname);
  while (type.includes("/") && !versions[type]) type = type.slice(0, type.lastIndexOf("/"));
  const known = versions[type];
  if (!known || known.has(asked)) return { url: u.toString() };
  u.searchParams.set("api-version", [...known].sort().at(-1));
  return { url: u.toString(), moved: asked };
}

const validator = new LiveValidator({ directory: specs, swaggerPaths: files(specs), git: { shouldClone: false } });
await validator.initialize();

const report = { exchanges: 0, validated: 0, otherVersions: {}, undescribed: [], differences: [] };
for (const file of fs.readdirSync(traffic).sort()) {
  if (!file.endsWith(".json")) continue;
  const pair = JSON.parse(fs.readFileSync(path.join(traffic, file), "utf8"));
  const { url, moved } = asSpecified(pair.liveRequest.url);
  pair.liveRequest.url = url;
  report.exchanges++;
  if (moved) report.otherVersions[moved] = (report.otherVersions[moved] ?? 0) + 1;
  const result = await validator.validateLiveRequestResponse(pair);
  const sides = [["request", result.requestValidationResult], ["response", result.responseValidationResult]];
  const failed = result.runtimeException ?? sides.map(([, s]) => s.runtimeException).find(Boolean);
  if (failed) {
    report.undescribed.push({ file, method: pair.liveRequest.method, path: new URL(url).pathname, code: failed.code, message: failed.message });
    continue;
  }
  report.validated++;
  for (const [side, s] of sides) {
    for (const e of s.errors) {
      report.differences.push({
        file, side, operation: s.operationInfo.operationId, status: pair.liveResponse.statusCode, code: e.code,
        paths: [...new Set(e.pathsInPayload.map((p) => p.replace(/\/\d+(?=\/|$)/g, "[]")))], message: e.message,
      });
    }
  }
}
fs.writeFileSync(out, JSON.stringify(report, null, 1) + "\n");
