package compliance

// The built-in policy definitions that the table is about. FACTS 1.7.
const (
	jit      = "b0f33259-77d7-4c9e-aac6-3aabcfae693c"
	ports    = "22730e10-96f6-4aac-ad84-9383d35b5917"
	internet = "f6de0be7-9a8a-4b8a-b349-43cf02d22f7c"
	internal = "bb91dfba-c30d-4263-9add-9c2384e659a6"
)

// facts says which controls each framework maps to a policy, as the built-in initiatives of the public cloud did on 2026-04-29: ids and
// numbers alone. A framework without an entry for a policy does not map it, and nothing is claimed of it; those that map none stand
// here so that the answer to "and PCI DSS 4.0?" is no and not silence. The test reads the mapping itself.
var facts = []Framework{
	{"Microsoft cloud security benchmark v1", "1f3afdf9-d0c9-4c3d-847f-89da613e70a8", "Azure_Security_Benchmark_v3.0_", map[string][]string{
		jit:      {"NS-3", "PA-2"},
		ports:    {"NS-3"},
		internet: {"NS-1"},
		internal: {"NS-1"},
	}},
	{"Microsoft cloud security benchmark v2 (preview)", "e3ec7e09-768c-4b64-882c-fcada3772047", "Azure_Security_Benchmark_v3.0_", map[string][]string{
		jit:      {"NS-3", "PA-2"},
		ports:    {"NS-3"},
		internet: {"NS-1"},
		internal: {"NS-1"},
	}},
	{"CIS Azure Foundations 1.1.0", "1a5bb27d-173f-493e-9568-eb56638dde4d", "CIS_Azure_1.1.0_", map[string][]string{
		jit:      {"2.12"},
		internet: {"2.9"},
	}},
	{"CIS Azure Foundations 2.0.0", "06f19060-9e68-4070-92ca-f15cc126059e", "CIS_Azure_2.0.0_", map[string][]string{
		ports: {"6.1", "6.2"},
	}},
	{"CIS Azure Foundations 2.1.0", "fe7782e4-6ff3-4e39-8d8a-64b6f7b82c85", "CIS_Azure_Foundations_v2.1.0_", map[string][]string{
		ports: {"6.1", "6.2"},
	}},
	{"CIS Controls 8.1", "046796ef-e8a7-4398-bbe9-cce970b1a3ae", "CIS_Controls_v8.1_", map[string][]string{
		ports: {"4.1", "4.4", "4.5"},
	}},
	{"NIST SP 800-53 R4", "cf25b9c1-bd23-4eb6-bd2c-f4f3ac644a5f", "NIST_SP_800-53_R4_", map[string][]string{
		jit:      {"AC-2(12)", "AC-4", "AC-4(3)", "SC-7", "SC-7(3)"},
		ports:    {"AC-4", "SC-7", "SC-7(3)"},
		internet: {"AC-4", "SC-7", "SC-7(3)"},
		internal: {"AC-4", "SC-7", "SC-7(3)"},
	}},
	{"NIST SP 800-53 R5", "179d1daa-458f-4e47-8086-2a68d0d6c38f", "NIST_SP_800-53_R5_", map[string][]string{
		jit:      {"AC-2(12)", "AC-4", "AC-4(3)", "SC-7", "SC-7(3)"},
		ports:    {"AC-4", "SC-7", "SC-7(3)"},
		internet: {"AC-4", "SC-7", "SC-7(3)"},
		internal: {"AC-4", "SC-7", "SC-7(3)"},
	}},
	{"NIST SP 800-53 R5.1.1", "60205a79-6280-4e20-a147-e2011e09dc78", "NIST_SP_800-53_R5.1.1_", map[string][]string{
		ports:    {"AC.3", "CM.7", "SC.23"},
		internet: {"SC.7"},
	}},
	{"NIST SP 800-171 R2", "03055927-78bd-4236-86c0-f36125a10dc9", "NIST_SP_800-171_R2_", map[string][]string{
		jit:      {"3.1.3", "3.13.1", "3.13.2", "3.13.5", "3.13.6"},
		ports:    {"3.1.3", "3.13.1", "3.13.2", "3.13.5", "3.13.6"},
		internet: {"3.1.3", "3.13.1", "3.13.2", "3.13.5", "3.13.6"},
		internal: {"3.1.3", "3.13.1", "3.13.2", "3.13.5", "3.13.6"},
	}},
	{"NIST SP 800-171 R3", "38916c43-6876-4971-a4b1-806aa7e55ccc", "NIST_SP_800-171_R3_", map[string][]string{
		ports:    {"3.1.2", "3.4.6", "3.5.5", "3.13.15"},
		internet: {"3.13.1"},
	}},
	{"FedRAMP High", "d5264498-16f4-418a-b659-fa7ef418175f", "FedRAMP_High_R4_", map[string][]string{
		jit:      {"AC-2(12)", "AC-4", "SC-7", "SC-7(3)"},
		ports:    {"AC-4", "SC-7", "SC-7(3)"},
		internet: {"AC-4", "SC-7", "SC-7(3)"},
		internal: {"AC-4", "SC-7", "SC-7(3)"},
	}},
	{"FedRAMP Moderate", "e95f5a9f-57ad-4d03-bb0b-b1d16db93693", "FedRAMP_Moderate_R4_", map[string][]string{
		jit:      {"AC-2(12)", "AC-4", "SC-7", "SC-7(3)"},
		ports:    {"AC-4", "SC-7", "SC-7(3)"},
		internet: {"AC-4", "SC-7", "SC-7(3)"},
		internal: {"AC-4", "SC-7", "SC-7(3)"},
	}},
	{"CMMC 2.0 Level 2", "4e50fd13-098b-3206-61d6-d1d78205cb45", "CMMC_2.0_L2_", map[string][]string{
		jit:      {"AC.L2-3.1.3", "SC.L1-3.13.1", "SC.L1-3.13.5", "SC.L2-3.13.2", "SC.L2-3.13.6"},
		ports:    {"AC.L2-3.1.3", "SC.L1-3.13.1", "SC.L1-3.13.5", "SC.L2-3.13.2", "SC.L2-3.13.6"},
		internet: {"AC.L2-3.1.3", "SC.L1-3.13.1", "SC.L1-3.13.5", "SC.L2-3.13.2", "SC.L2-3.13.6"},
		internal: {"AC.L2-3.1.3", "SC.L1-3.13.1", "SC.L1-3.13.5", "SC.L2-3.13.2", "SC.L2-3.13.6"},
	}},
	{"SOC 2 Type 2", "4054785f-702b-4a98-9215-009cbd58b141", "SOC_2_", map[string][]string{
		jit:      {"CC6.1", "CC6.6", "CC6.7"},
		ports:    {"CC6.1", "CC6.6", "CC6.7"},
		internet: {"CC6.1", "CC6.6", "CC6.7"},
		internal: {"CC6.1", "CC6.6", "CC6.7"},
	}},
	{"SOC 2023", "53ad89f5-8542-49e9-ba81-1cbd686e0d52", "SOC_2023_", map[string][]string{
		ports:    {"CC2.3", "CC5.3", "CC6.1", "CC6.3", "CC6.7", "CC6.8", "CC7.2", "CC7.4"},
		internet: {"CC2.3", "CC5.3", "CC7.4"},
	}},
	{"PCI DSS 4.0", "c676748e-3af9-4e22-bc28-50feed564afb", "PCI_DSS_v4.0_", map[string][]string{}},
	{"PCI DSS 4.0.1", "a06d5deb-24aa-4991-9d58-fa7563154e31", "PCI_DSS_v4.0.1_", map[string][]string{
		ports:    {"1.2.5", "2.2.4", "7.2.3", "7.2.4", "7.2.5.1"},
		internet: {"1.4.4"},
	}},
	{"ISO/IEC 27001:2013", "89c6cddc-1c73-4ac1-b19c-54d1a15a42f2", "ISO27001-2013_", map[string][]string{}},
	{"HIPAA/HITRUST", "a169a624-5599-4385-a696-c8d643089fab", "hipaa-", map[string][]string{
		jit:      {"0858.09m1Organizational.4-09.m", "1119.01j2Organizational.3-01.j", "1175.01j1Organizational.8-01.j", "1179.01j3Organizational.1-01.j", "1192.01l1Organizational.1-01.l", "11180.01c3System.6-01.c"},
		ports:    {"1143.01c1System.123-01.c", "1150.01c2System.10-01.c", "1193.01l2Organizational.13-01.l"},
		internet: {"0805.01m1Organizational.12-01.m", "0806.01m2Organizational.12356-01.m", "0809.01n2Organizational.1234-01.n", "0810.01n2Organizational.5-01.n", "0811.01n2Organizational.6-01.n", "0812.01n2Organizational.8-01.n", "0814.01n1Organizational.12-01.n", "0894.01m2Organizational.7-01.m"},
	}},
	{"HITRUST CSF 11.3", "e0d47b75-5d99-442a-9d60-07f2595ab095", "HITRUST_CSF_v11.3_", map[string][]string{
		ports:    {"01.c", "01.l", "09.j", "09.m", "10.m"},
		internet: {"01.m", "01.n"},
	}},
	{"CSA Cloud Controls Matrix 4.0.12", "8791506a-dec4-497a-a83f-3abfde37c400", "CSA_v4.0.12_", map[string][]string{
		ports:    {"CCC_03", "CCC_04", "IAM_02", "IAM_04", "IAM_06", "IAM_07", "IAM_10", "IAM_13", "IAM_16", "TVM_04"},
		internet: {"DSP_05", "DSP_10"},
	}},
	{"EU 2022/2555 (NIS2)", "42346945-b531-41d8-9e46-f95057672e88", "EU_2555_(NIS2)_2022_", map[string][]string{
		ports:    {"21"},
		internet: {"21"},
	}},
	{"EU GDPR", "7326812a-86a4-40c8-af7c-8945de9c4913", "EU_GDPR_2016_679_", map[string][]string{
		ports:    {"Art._24", "Art._25", "Art._28", "Art._32"},
		internet: {"Art._24", "Art._25", "Art._28", "Art._32"},
	}},
	{"SWIFT CSCF 2024", "7499005e-df5a-45d9-810f-041cf346678c", "SWIFT_CSCF_2024_", map[string][]string{
		ports:    {"2.6"},
		internet: {"1.1", "1.5", "9.1"},
	}},
}
