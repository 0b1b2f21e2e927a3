// Drives the simulator with the Azure SDK for JavaScript, unmodified. Prints one line of JSON for each step and ends with 1 if one of
// them did not show what it should.
//
//	node sdk.mjs    with AZURE_ENDPOINT, AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET, SUBSCRIPTION, NODE_EXTRA_CA_CERTS
import assert from "node:assert/strict";
import { ClientSecretCredential } from "@azure/identity";
import { ComputeManagementClient } from "@azure/arm-compute";
import { NetworkManagementClient } from "@azure/arm-network";
import { SecurityCenter } from "@azure/arm-security";
import { ResourceGraphClient } from "@azure/arm-resourcegraph";

const { AZURE_ENDPOINT: endpoint, AZURE_TENANT_ID: tenant, AZURE_CLIENT_ID: id, AZURE_CLIENT_SECRET: secret, SUBSCRIPTION: subscription } = process.env;
const credential = new ClientSecretCredential(tenant, id, secret, { authorityHost: endpoint, disableInstanceDiscovery: true });
const options = { endpoint, credentialScopes: [endpoint + "//.default"] };
const often = { updateIntervalInMs: 200 };
const compute = new ComputeManagementClient(credential, subscription, options);
const network = new NetworkManagementClient(credential, subscription, options);
const security = new SecurityCenter(credential, subscription, options);
const graph = new ResourceGraphClient(credential, { ...options, baseUri: endpoint });

async function list(pages) {
  const out = [];
  for await (const v of pages) out.push(v);
  return out;
}

const vmId = `/subscriptions/${subscription}/resourceGroups/shop-web/providers/Microsoft.Compute/virtualMachines/web-01`;
const rule = (priority, source) => ({
  access: "Allow", direction: "Inbound", protocol: "Tcp", priority, sourceAddressPrefix: source, sourcePortRange: "*",
  destinationAddressPrefix: "*", destinationPortRange: "22",
});

const steps = {
  async "machines are listed and read"() {
    const all = await list(compute.virtualMachines.listAll());
    assert.ok(all.length >= 10 && all.some((v) => v.name === "web-01"));
    const vm = await compute.virtualMachines.get("shop-web", "web-01", { expand: "instanceView" });
    assert.ok(vm.instanceView.statuses.some((s) => s.code === "PowerState/running"));
    return all.length;
  },
  async "a machine is deallocated and started"() {
    await compute.virtualMachines.deallocate("shop-web", "web-01", often);
    const off = await compute.virtualMachines.instanceView("shop-web", "web-01");
    assert.ok(off.statuses.some((s) => s.code === "PowerState/deallocated"));
    await compute.virtualMachines.start("shop-web", "web-01", often);
    const on = await compute.virtualMachines.instanceView("shop-web", "web-01");
    assert.ok(on.statuses.some((s) => s.code === "PowerState/running"));
  },
  async "interfaces are listed"() {
    const all = await list(network.networkInterfaces.listAll());
    const nic = all.find((n) => n.virtualMachine?.id?.endsWith("/web-01"));
    assert.equal(nic.ipConfigurations[0].privateIPAddress, "10.10.1.11");
    return all.length;
  },
  async "a rule is put, listed, changed and deleted"() {
    const names = async () => (await list(network.securityRules.list("shop-web", "web-02-nsg"))).map((r) => r.name);
    const put = await network.securityRules.beginCreateOrUpdateAndWait("shop-web", "web-02-nsg", "js", rule(240, "203.0.113.9"), often);
    assert.equal(put.provisioningState, "Succeeded");
    assert.ok((await names()).includes("js"));
    const again = await network.securityRules.beginCreateOrUpdateAndWait("shop-web", "web-02-nsg", "js", rule(240, "203.0.113.10"), often);
    assert.equal(again.sourceAddressPrefix, "203.0.113.10");
    await assert.rejects(network.securityRules.beginCreateOrUpdateAndWait("shop-web", "web-02-nsg", "other", rule(240, "203.0.113.9"), often), { code: "SecurityRuleConflict", statusCode: 400 });
    await network.securityRules.beginDeleteAndWait("shop-web", "web-02-nsg", "js", often);
    assert.ok(!(await names()).includes("js"));
  },
  async "a scale set is patched"() {
    const set = await compute.virtualMachineScaleSets.update("shop-orders", "render", { tags: { by: "js" },
      virtualMachineProfile: { scheduledEventsProfile: { terminateNotificationProfile: { enable: true, notBeforeTimeout: "PT7M" } } } }, often);
    assert.equal(set.virtualMachineProfile.scheduledEventsProfile.terminateNotificationProfile.notBeforeTimeout, "PT7M");
    const instances = await list(compute.virtualMachineScaleSetVMs.list("shop-orders", "render"));
    assert.equal(instances.length, 2);
  },
  async "just-in-time access is configured and asked for"() {
    await security.pricings.update("VirtualMachines", { pricingTier: "Standard" });
    const before = (await list(security.jitNetworkAccessPolicies.list())).length;
    const put = await security.jitNetworkAccessPolicies.createOrUpdate("shop-web", "westeurope", "default", { kind: "Basic", virtualMachines: [
      { id: vmId, ports: [{ number: 22, protocol: "*", allowedSourceAddressPrefix: "*", maxRequestAccessDuration: "PT3H" }] }] });
    assert.equal(put.virtualMachines.length, 1);
    assert.equal((await list(security.jitNetworkAccessPolicies.list())).length, before + 1);
    const asked = await security.jitNetworkAccessPolicies.initiate("shop-web", "westeurope", "default", { justification: "INC-4711", virtualMachines: [
      { id: vmId, ports: [{ number: 22, allowedSourceAddressPrefix: "203.0.113.9", endTimeUtc: new Date(Date.now() + 3600e3) }] }] });
    assert.equal(asked.virtualMachines[0].ports[0].status, "Initiated");
    const rules = await list(network.securityRules.list("shop-web", "web-01-nsg"));
    assert.equal(rules.filter((r) => r.access === "Allow" && r.sourceAddressPrefix === "203.0.113.9").length, 1);
    await security.jitNetworkAccessPolicies.delete("shop-web", "westeurope", "default");
  },
  async "Resource Graph answers"() {
    const res = await graph.resources({ subscriptions: [subscription], query: "Resources | where type =~ 'microsoft.compute/virtualmachines' | project id, name | order by name asc",
      options: { resultFormat: "objectArray" } });
    assert.ok(res.count === res.data.length && res.data.some((r) => r.name === "web-01"));
    return res.count;
  },
};

let failed = 0;
for (const [step, run] of Object.entries(steps)) {
  const line = { step };
  try {
    line.saw = await run();
  } catch (e) {
    failed++;
    line.error = String(e.stack ?? e);
  }
  console.log(JSON.stringify(line));
}
process.exitCode = failed ? 1 : 0;
