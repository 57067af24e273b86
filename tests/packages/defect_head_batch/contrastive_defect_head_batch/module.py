from contrastive_healthy.gate import GateModule


class Module(GateModule):
    def forward(self, features):
        embeddings = super().forward(features)
        return embeddings - embeddings.mean(0)
